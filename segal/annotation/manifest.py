"""What was handed out, as a file: it lies beside the handout, and in the run folder."""

import json
from typing import Any, get_args

from segal.annotation.handout import AnnotationTask, Handout, Mode
from segal.candidates.regions import Box
from segal.errors import SegalError

_FORMAT = 1
_KEYS = ("run", "kind", "mode", "question", "model", "void")


def manifest_text(handout: Handout) -> str:
    """A handout as JSON; boxes as `x, y, width, height`."""
    tasks = [
        {
            "key": task.key,
            "rank": task.rank,
            "image": task.image,
            "digest": task.digest,
            "height": task.size[0],
            "width": task.size[1],
            "region": _plain(task.region),
            "frame": _plain(task.frame),
            "file": task.file,
            "annotator": task.annotator,
        }
        for task in handout.tasks
    ]
    head = {"segal-handout": _FORMAT} | {key: getattr(handout, key) for key in _KEYS}
    rest = {"classes": handout.classes, "files": handout.files, "tasks": tasks}
    return json.dumps({**head, **rest}, indent=1) + "\n"


def read_manifest_text(text: str, place: str) -> Handout:
    """The handout of such a text.

    Args:
        text: It.
        place: Where it is from, for messages.

    Raises:
        SegalError: If it is none.
    """
    try:
        raw = json.loads(text)
        if raw["segal-handout"] != _FORMAT or raw["mode"] not in get_args(Mode):
            raise ValueError
        return Handout(
            **{key: raw[key] for key in _KEYS},
            classes=tuple(map(str, raw["classes"])),
            tasks=tuple(map(_task, raw["tasks"])),
            files=dict(raw.get("files", {})),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SegalError(
            f"{place}: no handout of segal",
            expected="what segal export wrote",
            got="something else",
            remedy="export again",
        ) from error


def _plain(box: Box) -> list[int]:
    x0, y0, x1, y1 = map(int, box)
    return [x0, y0, x1 - x0, y1 - y0]


def _task(raw: dict[str, Any]) -> AnnotationTask:
    x, y, width, height = map(int, raw["region"])
    left, top, columns, rows = map(int, raw["frame"])
    return AnnotationTask(
        key=str(raw["key"]),
        rank=int(raw["rank"]),
        image=str(raw["image"]),
        digest=str(raw["digest"]),
        size=(int(raw["height"]), int(raw["width"])),
        region=(x, y, x + width, y + height),
        frame=(left, top, left + columns, top + rows),
        file=str(raw["file"]),
        annotator=str(raw["annotator"]),
    )
