"""Label Studio: tasks as JSON, with brushes, boxes or choices, and its plain JSON export back.

The region is a rectangle of a label that is no class and is not offered, which the editor does not
let be moved; it stands in `predictions`, with what the network says. An answer is an annotation
that was submitted: predictions, drafts and skipped tasks are none.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from segal.annotation.answers import Answer
from segal.annotation.formats.base import Drafts, WriteOptions
from segal.annotation.formats.label_studio_answers import EXPECTED, FULL, KEY, PACKED, answers
from segal.annotation.formats.shared.json_items import json_items
from segal.annotation.formats.shared.tools import (
    OUTLINE,
    REGION,
    by_annotator,
    check_names,
    coloured,
    files_in,
    no_answers,
    of_wholes,
)
from segal.annotation.handout import AnnotationTask, Handout, Mode
from segal.errors import SegalError
from segal.functional.rle_brushes import encode_brushes
from segal.system.files import write_error

TASKS_FILE, CONFIG_FILE = "tasks{}.json", "label-config.xml"
_CHOICE, _BRUSH, _BOX = "choice", "brush", "box"
_MOST_PIXELS = 2**30 - 1


class LabelStudio:
    """The format `label-studio`."""

    name = "label-studio"
    questions: tuple[str, ...] = ("classification", "detection", "multilabel", "segmentation")
    modes: tuple[Mode, ...] = ("context", "crop")
    is_lossless = True

    def check(self, handout: Handout) -> None:
        """As `Format.check`.

        Its converters write `-` for slashes in the names of files, and its editor puts a field of
        a task's data in place of `$field` in a label.
        """
        check_names(
            handout,
            reserved=r"\$\w",
            told_as=lambda name: name.replace("/", "-").replace("\\", "-"),
        )
        large = [t for t in handout.tasks if math.prod(t.frame_size) > _MOST_PIXELS]
        if large:
            raise SegalError(
                f"{self.name}: images that are too large for its masks",
                expected=f"at most {_MOST_PIXELS:,} pixels",
                got=", ".join(task.file for task in large[:5]),
                remedy="export crops, with --mode crop",
            )

    def write(
        self, folder: Path, handout: Handout, drafts: Drafts | None, options: WriteOptions
    ) -> list[Path]:
        """As `Format.write`: a file of tasks for each annotator, and how they are labelled."""
        if "{file}" not in options.image_url:
            raise SegalError(
                "image_url: does not say which image",
                expected="an address with {file} in it, such as /data/local-files/?d={file}",
                got=options.image_url,
                remedy="put {file} where the image's path belongs",
            )
        config = folder / CONFIG_FILE
        paths = [config]
        try:
            config.write_text(_config(handout, options), "utf-8")
            for suffix, tasks in by_annotator(handout).items():
                paths.append(folder / TASKS_FILE.format(suffix))
                with paths[-1].open("w", encoding="utf-8") as file:
                    for place, task in enumerate(tasks):
                        drawn = drafts(task) if drafts is not None else None
                        file.write(",\n" if place else "[\n")
                        file.write(_task(task, handout, drawn, options))
                    file.write("\n]\n")
        except OSError as error:
            raise write_error(paths[-1], error) from error
        return paths

    def read(self, path: Path, handout: Handout) -> Iterator[Answer | SegalError]:
        """As `Format.read`: a file, or a folder of them."""
        for file in files_in(path, (".json",)):
            number = 0
            for number, raw in enumerate(json_items(file, EXPECTED, as_text=PACKED), 1):
                yield from answers(file, number, raw, handout)
            if not number:
                yield no_answers(file, EXPECTED)


def _config(handout: Handout, options: WriteOptions) -> str:
    """The labelling configuration."""
    labels = [
        f" value={quoteattr(name)} background={quoteattr(colour)}/>"
        for name, colour in coloured(handout, options)
    ]
    if handout.question == "segmentation":
        asked = _control("BrushLabels", f'name="{_BRUSH}"', labels)
    elif handout.question == "detection":
        asked = _control("RectangleLabels", f'name="{_BOX}" canRotate="false"', labels)
    else:
        choice = "multiple" if handout.question == "multilabel" else "single"
        asked = _control("Choices", f'name="{_CHOICE}" choice="{choice}"', labels, "Choice")
    outline = [f' value="{REGION}" background="{OUTLINE}"/>']
    region = _control(
        "RectangleLabels", f'name="{REGION}" canRotate="false" opacity="0" strokeWidth="3"', outline
    )
    lines = [
        "<View>",
        '  <Image name="image" value="$image" zoom="true" zoomControl="true"/>',
        *asked,
        *(() if of_wholes(handout) else ['  <View style="display: none">', *region, "  </View>"]),
        "</View>",
    ]
    return "\n".join(lines) + "\n"


def _control(tag: str, attributes: str, labels: Sequence[str], child: str = "Label") -> list[str]:
    """The lines of what labels are given with."""
    opened = f'  <{tag} toName="image" {attributes}>'
    return [opened, *(f"    <{child}{label}" for label in labels), f"  </{tag}>"]


def _task(
    task: AnnotationTask, handout: Handout, drawn: Answer | None, options: WriteOptions
) -> str:
    """A task as Label Studio imports it, as JSON."""
    x0, y0, x1, y1 = task.region
    data = {
        "image": options.image_url.replace("{file}", quote(os.fsencode(task.file))),
        KEY: task.key,
        "segal_priority": task.rank,
        "segal_image": task.image,
        "segal_region": f"{x0}, {y0}, {x1 - x0}, {y1 - y0}",
        "segal_annotator": task.annotator,
        "segal_run": handout.run,
    }
    results = []
    if not of_wholes(handout):
        region = _rectangle(task, REGION, REGION, task.region_in_frame)
        results.append(json.dumps({"id": "region", **region, "readonly": True}))
    results += _drafted(task, handout, drawn)
    text = f'{{"data": {json.dumps(data)}'
    if results:
        model, listed = json.dumps(handout.model or "segal"), ", ".join(results)
        text += f', "predictions": [{{"model_version": {model}, "result": [{listed}]}}]'
    return text + "}"


def _drafted(task: AnnotationTask, handout: Handout, drawn: Answer | None) -> Iterator[str]:
    """What the network says of a task, as JSON."""
    if drawn is None:
        return
    if handout.question == "segmentation":
        layers = sorted(drawn.layers, key=lambda layer: layer.order)
        brushes = encode_brushes([(layer.mask, layer.corner) for layer in layers], *task.frame_size)
        for number, (layer, brush) in enumerate(zip(layers, brushes, strict=True), 1):
            value = {"format": "rle", "rle": [], "brushlabels": [layer.name]}
            result = _result(task, _BRUSH, "brushlabels", value)
            # In a text of JSON, such as a name, the marks would have a backslash before them.
            text = json.dumps({"id": f"draft{number}", **result})
            yield text.replace('"rle": []', f'"rle": [{_listed(brush)}]', 1)
    elif handout.question == "detection":
        for number, box in enumerate(drawn.boxes, 1):
            result = _rectangle(task, _BOX, box.name, box.box)
            yield json.dumps({"id": f"draft{number}", **result})
    elif drawn.choices:
        value = {"choices": list(drawn.choices)}
        yield json.dumps(
            {
                "id": "draft",
                "from_name": _CHOICE,
                "to_name": "image",
                "type": "choices",
                "value": value,
            }
        )


_DIGITS = np.frombuffer(b"".join(f"{n},".encode().ljust(4, b"\0") for n in range(256)), "<u4")


def _listed(packed: bytes) -> str:
    """Bytes as numbers with commas between; `json` takes ten times as long for it."""
    padded = _DIGITS[np.frombuffer(packed, np.uint8)].tobytes()
    return padded.translate(None, b"\0")[:-1].decode("ascii")


def _rectangle(
    task: AnnotationTask, control: str, name: str, corners: Sequence[float]
) -> dict[str, Any]:
    """A rectangle in percent of the image's sides."""
    (height, width), (x0, y0, x1, y1) = task.frame_size, corners
    value = {
        "x": x0 * FULL / width,
        "y": y0 * FULL / height,
        "width": (x1 - x0) * FULL / width,
        "height": (y1 - y0) * FULL / height,
        "rotation": 0,
        "rectanglelabels": [name],
    }
    return _result(task, control, "rectanglelabels", value)


def _result(task: AnnotationTask, control: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    height, width = task.frame_size
    return {
        "from_name": control,
        "to_name": "image",
        "type": kind,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value,
    }
