"""Seconds to write and read annotations, and to decode masks beside the libraries.

    python tools/bench_annotate.py --regions 10000
    python tools/bench_annotate.py --formats none --libraries FOLDER

Every region is a whole crop or a part of a larger image, and shows every class in blobs of some
pixels, as street scenes do: `--cells` of them. Each is a region of its own, drawn from a few dozen
labels. Written is what a network would say of it, 19 masks each, and read is what was written, as
the tool gives it back; every tenth region is compared pixel by pixel. Processor time of one core,
so that whatever else the machine does counts little.

What no format can do without, such as an image's PNG, is measured alone in the same run.

With `--libraries`, the site-packages where label-studio-sdk is installed, its decoder is timed side
by side with segal's; pycocotools always is.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.sax.saxutils import escape

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco

from segal.annotation.answers import Answer, Layer
from segal.annotation.formats import FORMATS, panoptic
from segal.annotation.formats.base import Format, WriteOptions
from segal.annotation.handout import AnnotationTask, Handout, task_key
from segal.annotation.questions import QUESTIONS
from segal.annotation.questions.base import Rules
from segal.data import cityscapes
from segal.errors import SegalError
from segal.functional.rle import decode_counts, decode_cropped, encode_counts
from segal.functional.rle_brushes import decode_brush, encode_brush
from segal.functional.rle_coco import decode_coco, decode_cocos, encode_coco

CLASSES = tuple(name for _, name, _ in cityscapes.CLASSES)
TOOLS = "label-studio,cvat,coco,panoptic,labelme,folder,cityscapes,fiftyone"
LABELS, COMPARED = 24, 10
OPTIONS = WriteOptions("/data/local-files/?d={file}", tuple((9 * i, 0, 0) for i in range(19)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--regions", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=512, help="of a region's sides")
    parser.add_argument("--cells", type=int, default=38, help="blobs of a region")
    parser.add_argument("--context", action="store_true", help="in images of 2048 x 1024")
    parser.add_argument("--formats", default=TOOLS, help="names, or none")
    parser.add_argument("--libraries", type=Path, help="site-packages with label-studio-sdk")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    labels = [blobs(rng, arguments.size, arguments.cells) for _ in range(LABELS)]
    results = {
        "decoding": decoding(labels, arguments.libraries),
        "floors": floors(labels),
        "questions": questions(labels),
    }
    for name in arguments.formats.split(","):
        if name != "none":
            with TemporaryDirectory() as folder:
                results[name] = formats(FORMATS[name], labels, Path(folder), arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def blobs(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """(size, size) of the classes of the nearest of some points, all of them there."""
    places = rng.random((cells, 2)) * size
    wavy = np.cumsum(rng.normal(0, 0.5, (2, size)), 1)
    rows = np.arange(size)[:, None] + wavy[0][None, :]
    columns = np.arange(size)[None, :] + wavy[1][:, None]
    nearest = np.full((size, size), np.inf)
    label = np.zeros((size, size), np.uint8)
    for number, (y, x) in enumerate(places):
        distance = (rows - y) ** 2 + (columns - x) ** 2
        label[distance < nearest] = number % len(CLASSES)
        nearest = np.minimum(nearest, distance)
    return label


def layers_of(label: np.ndarray, corner: tuple[int, int]) -> list[Layer]:
    """As the questions make them of a network's answer."""
    layers = []
    for index, name in enumerate(CLASSES):
        mask = label == index
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if rows.size:
            y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
            place = corner[0] + int(x0), corner[1] + int(y0)
            layers.append(Layer(name, mask[y0:y1, x0:x1], place, is_drawn=False))
    return layers


def tasks(count: int, size: int, context: bool) -> list[AnnotationTask]:
    """Regions, one for each image."""
    shape = (max(1024, size), max(2048, size)) if context else (size, size)
    places = [(y, x) for y in (0, shape[0] - size) for x in (0, (shape[1] - size) // 2)]
    made = []
    for number in range(count):
        y, x = places[number % len(places)]
        image, region = f"{number:05}.png", (x, y, x + size, y + size)
        frame = (0, 0, shape[1], shape[0])
        key = task_key("bench", image, region)
        made.append(AnnotationTask(key, number, image, "", shape, region, frame, image))
    return made


def formats(
    tool: Format, labels: list[np.ndarray], folder: Path, arguments: argparse.Namespace
) -> dict[str, float]:
    """Seconds to write and to read all regions, without making the masks to write."""
    own = tuple(tasks(arguments.regions, arguments.size, arguments.context))
    handout = Handout("bench", tool.name, "context", "segmentation", CLASSES, "network", own)
    drawn = {
        (number, task.region): layers_of(labels[number], task.region[:2])
        for task in own[: 4 * LABELS]
        for number in [task.rank % LABELS]
    }

    def draft(task: AnnotationTask) -> Answer:
        return Answer(task.key, "", layers=drawn[task.rank % LABELS, task.region])

    tool.check(handout)
    floor, wall, start = plain_work(), time.monotonic(), time.process_time()
    paths = tool.write(folder, handout, draft, OPTIONS)
    written = time.process_time() - start
    size = sum(path.stat().st_size for path in paths)
    back = returned(folder, paths)
    by_key = {task.key: task for task in own}
    seconds, count, wrong = 0.0, 0, 0
    answers = iter(tool.read(back, handout))
    while True:
        start = time.process_time()
        answer = next(answers, None)
        seconds += time.process_time() - start
        if answer is None:
            break
        assert not isinstance(answer, SegalError), answer
        count += 1
        if count % COMPARED == 0:
            wrong += differing(answer, by_key[answer.key], labels)
    assert count == len(own), count
    megapixels = count * arguments.size**2 / 1e6
    wall, floor = time.monotonic() - wall, min(floor, plain_work())
    print(
        f"{tool.name}: {count} regions of {arguments.size} x {arguments.size}, "
        f"{size / 1e6:.0f} MB: "
        f"written in {written:.2f} s, read in {seconds:.2f} s "
        f"({megapixels / seconds:.0f} MP/s); {wrong} pixels differ; "
        f"{wall:.0f} s by the clock, all in all; plain work {floor:.2f} s",
        flush=True,
    )
    counts = {"bytes": size, "differing": wrong}
    return {"written": written, "read": seconds, "wall": wall, "plain": floor, **counts}


def plain_work() -> float:
    """Seconds of a fixed piece of work that is not segal's: how fast the machine is just now."""
    text = json.dumps(list(range(256)) * 4000)
    return best(lambda: json.loads(text), 3)


def returned(folder: Path, paths: list[Path]) -> Path:
    """What comes back of untouched work: where it lies."""
    for path in paths:
        if path.name in {"tasks.json", "annotations.xml"}:
            return submitted(path)
    labels = next(
        (folder / name for name in ("labels", "gtFine") if (folder / name).is_dir()), None
    )
    if labels is not None and (folder / "drafts").is_dir():
        shutil.rmtree(labels)
        (folder / "drafts").rename(labels)
    return folder


def submitted(path: Path) -> Path:
    """What the tool gives back of untouched work, as text, in bounded memory."""
    back = path.with_name("back" + path.suffix)
    with path.open() as old, back.open("w") as new:
        for number, line in enumerate(old):
            if path.suffix == ".xml":
                new.write(line.replace(f'"done">{escape("false")}', '"done">true'))
            elif line.strip() in {"[", "]"}:
                new.write(line)
            else:
                text = line.rstrip().removesuffix(",")
                comma = "," if line.rstrip().endswith(",") else ""
                text = text.replace(
                    '"predictions": [{"model_version": "network",', '"annotations": [{'
                )
                text = text.replace(
                    '"annotations": [{', f'"annotations": [{{"id": {number}, "lead_time": 3.5,'
                )
                new.write(text + comma + "\n")
    path.unlink()
    return back


def differing(answer: Answer, task: AnnotationTask, labels: list[np.ndarray]) -> int:
    """Pixels that are not what was written."""
    expected = labels[task.rank % LABELS]
    x0, y0, _, _ = task.region_in_frame
    found = np.full(expected.shape, 255, np.uint8)
    for layer in answer.layers:
        x, y = layer.corner[0] - x0, layer.corner[1] - y0
        height, width = layer.mask.shape
        found[y : y + height, x : x + width][layer.mask] = CLASSES.index(layer.name)
    return int((found != expected).sum())


def decoding(labels: list[np.ndarray], libraries: Path | None) -> dict[str, float]:
    """Microseconds to decode a mask of one class, with segal and with the libraries."""
    masks = [label == index for label in labels[:4] for index in range(len(CLASSES))]
    side = labels[0].shape[0]
    results = of_coco(f"{side} x {side}", masks)
    rng = np.random.default_rng(0)
    for small in (8, 32, 128):
        places = rng.integers(0, side - small + 1, (len(masks), 2)).tolist()
        pairs = zip(masks, places, strict=True)
        parts = [mask[y : y + small, x : x + small] for mask, (y, x) in pairs]
        results |= of_coco(f"{small} x {small}", parts)
        noise = [rng.random((small, small)) < 0.5 for _ in range(20)]
        results |= of_coco(f"{small} x {small}, noise", noise)
    packed = [encode_brush(mask, (0, 0), side, side) for mask in masks]
    brushes = {"brush, segal": best(lambda: [decode_brush(one, side, side) for one in packed])}
    if libraries is not None:
        sys.path.append(str(libraries))
        from label_studio_sdk.converter.brush import decode_rle  # noqa: PLC0415

        lists = [list(one) for one in packed]
        brushes["brush, label-studio-sdk"] = best(lambda: [decode_rle(x) for x in lists], 1)
    results |= {name: 1e6 * seconds / len(masks) for name, seconds in brushes.items()}
    for name, microseconds in results.items():
        print(f"{name}: {microseconds:.1f} microseconds for a mask")
    return results


def of_coco(kind: str, masks: list[np.ndarray]) -> dict[str, float]:
    """Microseconds to decode a mask of COCO, one in a call and all of them in one."""
    height, width = masks[0].shape
    encoded = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    texts = [one["counts"] for one in encoded]
    assert [text.decode() for text in texts] == [encode_coco(encode_counts(m.T)) for m in masks]
    results = {
        "pycocotools": best(lambda: [coco.decode(one) for one in encoded]),
        "pycocotools, together": best(lambda: coco.decode(encoded)),
        "segal": best(lambda: [decode_counts(decode_coco(x), width, height).T for x in texts]),
        "segal, together": best(lambda: list(decode_cropped(*decode_cocos(texts), width, height))),
    }
    return {f"coco, {kind}, {n}": 1e6 * seconds / len(masks) for n, seconds in results.items()}


def floors(labels: list[np.ndarray]) -> dict[str, float]:
    """Milliseconds a region of what no format can do without: libraries alone, nothing around."""
    some = labels[:8]
    masks = [layer.mask.view(np.uint8) for label in some for layer in layers_of(label, (0, 0))]
    ids = [cv2.merge([label * 0, label * 0, label + 1]) for label in some]
    results = {}
    for name, images, how in (
        ("grey PNG", some, ()),
        ("PNG of ids", ids, panoptic.QUICK),
        ("PNG of each mask", masks, (cv2.IMWRITE_PNG_BILEVEL, 1)),
    ):
        files = [cv2.imencode(".png", image, how)[1].tobytes() for image in images]
        results[f"{name}, encoded by OpenCV"] = best(
            lambda images=images, how=how: [cv2.imencode(".png", image, how) for image in images]
        )
        results[f"{name}, decoded by Pillow"] = best(
            lambda files=files: [np.array(Image.open(BytesIO(file))) for file in files]
        )
    results["run lengths of each mask, encoded"] = best(lambda: [encode_counts(m) for m in masks])
    counts = [encode_counts(mask) for mask in masks]
    results["run lengths of each mask, decoded"] = best(
        lambda: [decode_counts(c, *m.shape) for c, m in zip(counts, masks, strict=True)]
    )
    of_one = {name: 1e3 * seconds / len(some) for name, seconds in results.items()}
    for name, milliseconds in of_one.items():
        print(f"{name}: {milliseconds:.2f} ms a region")
    return of_one


def questions(labels: list[np.ndarray]) -> dict[str, float]:
    """Milliseconds a region of what every export and import does besides, whatever the format."""
    asked, some = QUESTIONS["segmentation"], labels[:8]
    own = tasks(len(some), some[0].shape[0], False)

    def settled(answers: list[Answer]) -> None:
        for answer, task in zip(answers, own, strict=True):
            label = asked.settle(answer, task, CLASSES, Rules()).label
            asked.digest(label)
            asked.encode(label)

    answers = [asked.answer(label, task, CLASSES) for label, task in zip(some, own, strict=True)]
    results = {
        "a label made layers": best(
            lambda: [asked.answer(label, own[0], CLASSES) for label in some]
        ),
        "layers made a label and kept": best(lambda: settled(answers)),
    }
    of_one = {name: 1e3 * seconds / len(some) for name, seconds in results.items()}
    for name, milliseconds in of_one.items():
        print(f"{name}: {milliseconds:.2f} ms a region")
    return of_one


def best(function: Callable[[], object], times: int = 7) -> float:
    """Processor time of the quickest of several calls."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
