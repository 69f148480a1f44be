"""COCO's panoptic segmentations: PNGs of segments' ids, and one JSON that says their categories.

    panoptic_default.json
    panoptic_default/PATH.png      a pixel's segment: red + 256 green + 65536 blue; 0 is nothing
    regions.json                   where the regions are; tools leave it alone

Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019, and COCO's description of the format.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segal.annotation.answers import Answer, Layer
from segal.annotation.formats.base import Drafts, WriteOptions
from segal.annotation.formats.shared.files import (
    Drafted,
    FileNames,
    Gathered,
    Part,
    Reply,
    check_handout,
    new_parts,
    parts,
    put,
    read_json,
    stem,
)
from segal.annotation.formats.shared.frames import draft_layers, paint_layer
from segal.annotation.formats.shared.mistakes import Mistake, check_size, not_handed_out
from segal.annotation.formats.shared.tools import no_answers
from segal.annotation.handout import CONTEXT, CROP, AnnotationTask, Handout, Mode, fitting
from segal.data.find import check_path, real_path
from segal.data.images import read_label_colours
from segal.errors import SegalError, raise_all
from segal.functional.segments import boxes_of_values
from segal.tasks.detection.coco import id_errors, is_id

FILE, FOLDER = "panoptic_default.json", "panoptic_default"
_SHOWN = 5
# Larger by half than what filters make of it, and read in half the time.
QUICK = (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_COMPRESSION, 1)
_EXPECTED = "COCO's panoptic JSON: an object with lists of images, annotations and categories"


class Panoptic:
    """Panoptic segmentations of COCO."""

    name = "panoptic"
    questions: tuple[str, ...] = ("segmentation",)
    modes: tuple[Mode, ...] = (CONTEXT, CROP)
    is_lossless = True

    def check(self, handout: Handout) -> None:
        """Raises a SegalError for names that cannot be told apart."""
        check_handout(handout)

    def write(
        self, folder: Path, handout: Handout, drafts: Drafts | None, options: WriteOptions
    ) -> list[Path]:
        """See `formats.base.Format`."""
        files = []
        for part in new_parts(folder, handout):
            drafted = Drafted()
            content, images = _content(part, handout, drafts, drafted, options)
            data = json.dumps(content, ensure_ascii=False).encode(errors="surrogateescape")
            files += [*images, put(part.root / FILE, data), drafted.write(part, handout)]
        return files

    def read(self, path: Path, handout: Handout) -> Iterator[Answer | SegalError]:
        """See `formats.base.Format`."""
        for part in parts(path, handout):
            yield from _read(_file(part.root), part, handout)


def _file(root: Path) -> Path:
    """The JSON that has a folder of its name beside it."""
    if root.is_file():
        return root
    there = sorted(file for file in root.glob("*.json") if file.with_suffix("").is_dir())
    if len(there) != 1:
        raise SegalError(
            f"{root}: no panoptic JSON",
            expected=f"one, such as {FILE}, with a folder of PNGs that has its name",
            got=", ".join(file.name for file in there) or "none",
            remedy="give the JSON that the tool exported",
        )
    return there[0]


def _content(
    part: Part, handout: Handout, drafts: Drafts | None, drafted: Drafted, options: WriteOptions
) -> tuple[dict[str, object], list[Path]]:
    ids = {name: number for number, name in enumerate(handout.classes, 1)}
    files, images, annotations = [], [], []
    for number, (file, tasks) in enumerate(part.by_file.items(), 1):
        height, width = tasks[0].frame_size
        images.append({"id": number, "file_name": file, "height": height, "width": width})
        segments: list[dict[str, object]] = []
        planes = np.zeros((3, height, width), np.uint8)
        for task in tasks:
            layers = draft_layers(drafts, task)
            drafted.add(task, layers)
            for layer in layers:
                (x, y), (h, w) = layer.corner, layer.mask.shape
                segment = len(segments) + 1
                # Ids ascend: where this one's higher bytes are 0, those below are 0 there, too.
                for plane, byte in zip(planes, _bytes(segment), strict=False):
                    paint_layer(plane, layer, byte)
                segments.append(
                    {
                        "id": segment,
                        "category_id": ids[layer.name],
                        "area": int(np.count_nonzero(layer.mask)),
                        "bbox": [x, y, w, h],
                        "iscrowd": 0,
                    }
                )
        if segments:
            name = f"{stem(file)}.png"
            files.append(put(part.root / FOLDER / name, _png(planes)))
            annotations.append({"image_id": number, "file_name": name, "segments_info": segments})
    (part.root / FOLDER).mkdir(parents=True, exist_ok=True)
    categories = [
        {"id": ids[name], "name": name, "supercategory": name, "isthing": 0, "color": [*colour]}
        for name, colour in zip(handout.classes, options.colours, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}, files


def _bytes(number: int) -> bytes:
    """The bytes that a number needs, the lowest first."""
    return number.to_bytes(-(-number.bit_length() // 8), "little")


def _png(planes: NDArray[np.uint8]) -> bytes:
    """Ids as the colours of a PNG, of (3, H, W): their bytes, the lowest first."""
    return cv2.imencode(".png", cv2.merge([*planes[::-1]]), QUICK)[1].tobytes()


def _ids(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The same the other way, of (H, W, 3)."""
    ids: NDArray[np.uint32] = cv2.cvtColor(colours, cv2.COLOR_RGB2RGBA).view("<u4")[..., 0]
    return ids & np.uint32(0xFFFFFF)


def _read(file: Path, part: Part, handout: Handout) -> Iterator[Answer | SegalError]:
    content = read_json(file, _EXPECTED)
    lists = [content.get(key) for key in ("images", "annotations", "categories")]
    if not all(isinstance(x, list) and all(isinstance(y, dict) for y in x) for x in lists):
        raise SegalError(
            f"{file}: no panoptic segmentation of COCO",
            expected=_EXPECTED,
            got=", ".join(list(content)[:10]) or "an empty object",
            remedy="export it again, as COCO panoptic",
        )
    images, annotations, categories = (x or [] for x in lists)
    errors = id_errors(file, "image", images, "file_name")
    raise_all([*errors, *id_errors(file, "category", categories, "name")])
    names = {category["id"]: category["name"] for category in categories}
    of_image: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in annotations:
        if is_id(annotation.get("image_id")):
            of_image.setdefault(annotation["image_id"], []).append(annotation)
    astray = len(of_image.keys() - {image["id"] for image in images})
    if astray:
        yield SegalError(
            f"{file}: annotations of images that it does not list ({astray})",
            expected="the image_id of a listed image",
            got=f"{astray} of others",
            remedy="export all images together with their annotations",
        )
    if not images:
        yield no_answers(file, _EXPECTED)
    gathered, known = Gathered.of(part, handout), FileNames(part)
    found = {image["id"]: known.find(image["file_name"]) for image in images}
    times = Counter(found.values())
    strangers = [x["file_name"] for x in images if found[x["id"]] is None]
    if strangers:
        yield not_handed_out(file, strangers, part.by_file)
    for image in images:
        shown, said = found[image["id"]], of_image.get(image["id"], [])
        if shown is None:
            continue
        size = (image.get("height"), image.get("width"))
        tasks = fitting(part.by_file[shown], size)
        reply = Reply(f"{file}: image {image['id']} ({image['file_name']})")
        try:
            if len(said) > 1 or times[shown] > 1:
                got = f"{len(said)} annotations, {times[shown]} images"
                raise Mistake(
                    reply.source, "an image that is listed twice", "once", got, "leave one"
                )
            if said:
                check_size(tasks[0], reply.source, size)
                _segments(reply, file, said[0], names, tasks[0])
        except Mistake as mistake:
            reply.fail(mistake, tasks)
        yield from gathered.answers(reply, tasks)


def _segments(
    reply: Reply,
    file: Path,
    annotation: Mapping[str, Any],
    names: Mapping[Any, str],
    task: AnnotationTask,
) -> None:
    name, listed = annotation.get("file_name"), annotation.get("segments_info")
    if not isinstance(name, str) or not isinstance(listed, list):
        expected = "file_name and a list segments_info"
        raise Mistake(reply.source, "no annotation", expected, annotation, "export it again")
    folder = file.with_suffix("")
    path = folder / name
    try:
        check_path(folder, name, real_path(folder))
        ids = _ids(read_label_colours(path))
    except SegalError as error:
        raise Mistake.of_error(error, path) from error
    check_size(task, path, ids.shape)
    found: dict[int, str] = {}
    for segment in listed:
        number = segment.get("id") if isinstance(segment, dict) else None
        category = segment.get("category_id") if isinstance(segment, dict) else None
        is_known = is_id(category) and category in names
        is_free = isinstance(number, int) and 0 < number < 1 << 24 and number not in found
        if not isinstance(number, int) or not is_free or not is_known:
            expected = "an id of its own, from 1 to 16777215, and a listed category"
            problem, remedy = "a segment that is none", "export it again"
            raise Mistake(reply.source, problem, expected, segment, remedy)
        found[number] = names[category]
    boxes = boxes_of_values(ids)
    strange = [number for number in boxes if number and number not in found]
    if strange:
        pairs = [(number, np.count_nonzero(ids == number)) for number in strange[:_SHOWN]]
        got = ", ".join(f"{number} ({n} pixels)" for number, n in pairs)
        expected, remedy = "pixels of listed segments, or 0", "export it again"
        raise Mistake(path, "pixels of segments that are not listed", expected, got, remedy)
    missing: list[str] = []
    for number, name in found.items():
        if number not in boxes:
            missing.append(str(number))
        else:
            x0, y0, x1, y1 = boxes[number]
            reply.add(Layer(name, ids[y0:y1, x0:x1] == number, (x0, y0)), task)
    if missing:
        reply.notes.append(f"segments without a pixel: {', '.join(missing[:_SHOWN])}")
