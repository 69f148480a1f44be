"""A loop with annotators on CamVid, for docs/results/annotating.md: out, back, train, select again.

    python -m tools.annotate_camvid CAMVID CHECKPOINT OUT

Forty regions picked by uwe go out to Label Studio and to CVAT, and come back as a team would return
them: painted over the region's edge, a part left unpainted, one late, one answered twice, one with
a label that is no class. The exports are written here from the ground truth, as the tools write
them. What was drawn is then compared with what segal trains on, pixel by pixel, without segal's
readers. CAMVID has the layout `folder`; CHECKPOINT is one of segal train. Every step is a segal
command; a step that is done is not done again.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np
from numpy.typing import NDArray

from segal.cli import app
from segal.config import DataConfig
from segal.errors import SegalError
from segal.functional.rle import encode_counts
from segal.functional.rle_brushes import encode_brush
from segal.jobs.labelled import Labelled
from segal.tasks import find_task

IGNORED = 11  # the value of CamVid's labels that no class stands for
REGION, BUDGET, OVER = "128", "40", 6  # pixels that brushes go over a region's edge
LATE, TWICE, WRONG, HALF = 3, 7, 11, 17  # places in the pick order
LEFT_OPEN = 9  # rows of a region that nobody painted
SPENT = 95.0  # seconds a region
Task = dict[str, Any]


def main() -> None:
    camvid, checkpoint, out = (Path(word).absolute() for word in sys.argv[1:4])
    classes = [line.split()[-1] for line in (camvid / "classes.txt").read_text().splitlines()]
    classes = [name for name in classes if name.lower() not in {"void", "unlabelled"}][:IGNORED]
    for kind in ("label-studio", "cvat"):
        run, handout = out / kind, out / f"{kind}-handout"
        select(camvid, checkpoint, run)
        segal("export", run, "--to", kind, "--out", handout, "--annotators", "ann,bob")
        tasks = json.loads((handout / "segal-handout.json").read_text())["tasks"]
        drawn = {task["key"]: draw(camvid, task, place) for place, task in enumerate(tasks)}
        if kind == "cvat":  # where an image is one drawing, whatever regions it shows
            drawn = together(tasks, drawn)
        write = {"label-studio": write_label_studio, "cvat": write_cvat}[kind]
        first, second = out / f"{kind}-1", out / f"{kind}-2"
        early = [task for place, task in enumerate(tasks) if place != LATE]
        write(first, early, drawn, classes, wrong=tasks[WRONG]["key"], twice=tasks[TWICE]["key"])
        refused = told(lambda r=run, f=first: segal("import", r, f))
        print(f"refused: {refused.splitlines()[0]}")
        segal("import", run, first, "--skip-bad", "--unpainted", "ignore")
        write(second, tasks, drawn, classes)
        segal("import", run, second, "--unpainted", "ignore")
        segal("status", run)
        segal("validate", run)
        compare(kind, camvid, run, tasks, drawn)
        train(camvid, checkpoint, run, out / f"{kind}-model")
        select(camvid, out / f"{kind}-model" / "model.safetensors", out / f"{kind}-next", run)


def select(camvid: Path, checkpoint: Path, out: Path, labelled: Path | None = None) -> None:
    """Forty regions by uwe."""
    given = () if labelled is None else ("--labelled", labelled)
    segal(
        *("select", "--images", camvid / "images" / "train", "--checkpoint", checkpoint),
        *("--region", REGION, "--budget", BUDGET, "--strategy", "uwe", "--overlays", 2),
        *("--threads", 1, "--out", out, *given),
    )


def train(camvid: Path, checkpoint: Path, run: Path, out: Path) -> None:
    """On what came back alone; the label files of the data set say nothing of other regions."""
    segal(
        *("train", "--data", camvid, "--labelled", run, "--checkpoint", checkpoint),
        *("--iterations", 30, "train.batch_size=4", "train.crop=128", "train.workers=0"),
        *("data.ignore_index=11", "--threads", 1, "--out", out),
    )


def draw(camvid: Path, task: Task, place: int) -> NDArray[np.uint8]:
    """What a person paints of an image: the truth around a region, 255 where nothing is painted."""
    truth = read_label(camvid, task["image"])
    x, y, width, height = task["region"]
    painted = np.full_like(truth, 255)
    rows = slice(max(0, y - OVER), y + height + OVER)
    columns = slice(max(0, x - OVER), x + width + OVER)
    painted[rows, columns] = truth[rows, columns]
    painted[painted == IGNORED] = 255  # what is none of the classes is left open
    if place == HALF:
        painted[y : y + LEFT_OPEN, x : x + width] = 255
    return painted


def together(
    tasks: Sequence[Task], drawn: dict[str, NDArray[np.uint8]]
) -> dict[str, NDArray[np.uint8]]:
    """What is painted of the whole image of each task; people say the same where they overlap."""
    images: dict[str, NDArray[np.uint8]] = {}
    for task in tasks:
        one = drawn[task["key"]]
        whole = images.setdefault(task["image"], np.full_like(one, 255))
        whole[one < 255] = one[one < 255]
    return {task["key"]: images[task["image"]] for task in tasks}


def compare(
    kind: str,
    camvid: Path,
    run: Path,
    tasks: Sequence[Task],
    drawn: dict[str, NDArray[np.uint8]],
) -> None:
    """Counts pixels that are trained on as another class than was drawn, or as none."""
    given = Labelled.open([run])
    data = DataConfig(root=camvid, ignore_index=IGNORED)
    dataset = find_task("segmentation").open_split(data, "train", given.images, missing_labels=True)
    dataset = given.answered(dataset, "segmentation")
    places = {path: index for index, path in enumerate(dataset.pool.paths)}
    wrong = compared = 0
    for task in tasks:
        x, y, width, height = task["region"]
        window = np.s_[y : y + height, x : x + width]
        label = dataset.read_label(places[task["image"]])[window]
        wrong += int((label != drawn[task["key"]][window]).sum())
        compared += label.size
    print(f"{kind}: {wrong} of {compared} pixels of {len(tasks)} regions differ")


def write_label_studio(
    folder: Path,
    tasks: Sequence[Task],
    drawn: dict[str, NDArray[np.uint8]],
    classes: Sequence[str],
    wrong: str = "",
    twice: str = "",
) -> None:
    """The plain JSON export."""
    exported = []
    for number, task in enumerate(tasks, 1):
        height, width = drawn[task["key"]].shape
        size = {"original_width": width, "original_height": height, "image_rotation": 0}
        results: list[dict[str, Any]] = []
        for index, name in enumerate(classes):
            mask = drawn[task["key"]] == index
            if mask.any():
                called = f"{name} (new)" if task["key"] == wrong and not results else name
                value = {"format": "rle", "brushlabels": [called]}
                value |= {"rle": list(encode_brush(mask, (0, 0), height, width))}
                named = {"from_name": "brush", "to_name": "image", "type": "brushlabels"}
                results.append({"id": f"r{index}", **named, **size, "value": value})
        annotation = {"id": number, "was_cancelled": False, "lead_time": SPENT, "result": results}
        annotation |= {"updated_at": "2026-01-02T00:00:00Z"}
        older = {**annotation, "id": 1000 + number, "result": results[:1], "lead_time": 5.0}
        older |= {"updated_at": "2026-01-01T00:00:00Z"}
        done = [older, annotation] if task["key"] == twice else [annotation]
        data = {"image": task["file"], "segal_task": task["key"]}
        data |= {"segal_annotator": task["annotator"]}
        exported.append({"id": number, "data": data, "annotations": done, "predictions": []})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "export.json").write_text(json.dumps(exported))


def write_cvat(
    folder: Path,
    tasks: Sequence[Task],
    drawn: dict[str, NDArray[np.uint8]],
    classes: Sequence[str],
    wrong: str = "",
    twice: str = "",
) -> None:
    """CVAT for images 1.1; an image stands twice in it where two jobs have it."""
    by_image: dict[str, list[Task]] = {}
    for task in tasks:
        by_image.setdefault(task["file"], []).append(task)
        if task["key"] == twice:
            by_image[task["file"]].append(task)
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations><version>1.1</version>"]
    for number, (file, own) in enumerate(by_image.items()):
        height, width = drawn[own[0]["key"]].shape
        lines.append(
            f'<image id="{number}" name={quoteattr(file)} width="{width}" height="{height}">'
        )
        for task in {task["key"]: task for task in own}.values():
            x, y, columns, rows = task["region"]
            lines.append(
                f'<box label="segal_region" source="file" occluded="0" xtl="{x}" ytl="{y}" '
                f'xbr="{x + columns}" ybr="{y + rows}" z_order="1">'
                f'<attribute name="task">{task["key"]}</attribute>'
                f'<attribute name="annotator">{task["annotator"]}</attribute>'
                '<attribute name="done">true</attribute></box>'
            )
        whole = drawn[own[0]["key"]]
        for index, name in enumerate(classes):
            mask = whole == index
            if mask.any():
                called = name + " (new)" if any(t["key"] == wrong for t in own) else name
                runs = ", ".join(map(str, encode_counts(mask).tolist()))
                lines.append(
                    f'<mask label={quoteattr(called)} source="manual" occluded="0" rle="{runs}" '
                    f'left="0" top="0" width="{width}" height="{height}" z_order="2"></mask>'
                )
        lines.append("</image>")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.xml").write_text("\n".join([*lines, "</annotations>"]))


def read_label(camvid: Path, image: str) -> NDArray[np.uint8]:
    file = camvid / "labels" / "train" / f"{Path(image).stem}.png"
    return np.asarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), np.uint8)


def told(step: Any) -> str:
    """What a step is refused with."""
    try:
        step()
    except SegalError as error:
        return str(error)
    raise AssertionError("it was not refused")


def segal(*arguments: object) -> None:
    """A command of segal, in this process."""
    words = list(map(str, arguments))
    print("segal", shlex.join(words), flush=True)
    app(words, standalone_mode=False)


if __name__ == "__main__":
    main()
