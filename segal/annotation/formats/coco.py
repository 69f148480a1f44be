"""COCO: one JSON of all that is labelled, masks as run lengths.

    annotations/instances_default.json
    regions.json               where the regions are; tools leave it alone

Masks come back as they were drawn. Polygons are taken too, as pycocotools fills them, and told to
be lossy. Categories are known by name; ids may have gaps. `iscrowd` says how a mask is written, not
what it is, and `bbox` and `area` are not believed where there is a mask.

Source: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; pycocotools'
maskApi.c for the run lengths.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from segal.annotation.answers import Answer, DrawnBox, Layer
from segal.annotation.formats.base import Drafts, WriteOptions
from segal.annotation.formats.shared.drafted_boxes import labelled_images
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
)
from segal.annotation.formats.shared.frames import (
    draft_layers,
    outline,
    trimmed,
    turned,
    whole_box,
)
from segal.annotation.formats.shared.mistakes import Mistake, check_size, is_number, not_handed_out
from segal.annotation.formats.shared.tools import no_answers
from segal.annotation.handout import CONTEXT, CROP, AnnotationTask, Handout, Mode, fitting
from segal.errors import SegalError, raise_all
from segal.functional.rle import decode_cropped, encode_placed
from segal.functional.rle_coco import decode_coco, decode_cocos, encode_coco
from segal.tasks.detection.coco import id_errors, is_id
from segal.tasks.detection.writing import write_labels

SPLIT = "default"
FILE = Path("annotations", f"instances_{SPLIT}.json")
RASTERISER = "polygons filled by pycocotools"
_EXPECTED = "COCO's instances: an object with lists of images, annotations and categories"


class Coco:
    """Instances of COCO: masks as run lengths, or boxes."""

    name = "coco"
    questions: tuple[str, ...] = ("segmentation", "detection")
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
            if handout.question == "detection":
                images, drafted = labelled_images(part, handout.classes, drafts)
                files += write_labels(part.root, "coco", SPLIT, images, handout.classes)
            else:
                content, drafted = _content(part, handout, drafts)
                data = json.dumps(content, ensure_ascii=False).encode(errors="surrogateescape")
                files.append(put(part.root / FILE, data))
            files.append(drafted.write(part, handout))
        return files

    def read(self, path: Path, handout: Handout) -> Iterator[Answer | SegalError]:
        """See `formats.base.Format`."""
        for part in parts(path, handout):
            for file in _files(part.root):
                yield from _read(file, part, handout)


def _files(root: Path) -> list[Path]:
    """The file, or those in a folder that say that they are instances."""
    if root.is_file():
        return [root]
    there = [root / FILE] if (root / FILE).is_file() else []
    there = there or sorted(root.glob("annotations/*.json")) or sorted(root.glob("*.json"))
    kept = [file for file in there if not file.name.startswith(("regions", "segal-"))]
    if not kept:
        raise SegalError(
            f"{root}: no instances of COCO",
            expected=f"a JSON, such as {FILE}",
            got="none",
            remedy="give the file that the tool exported",
        )
    return kept


def _content(
    part: Part, handout: Handout, drafts: Drafts | None
) -> tuple[dict[str, object], Drafted]:
    ids = {name: number for number, name in enumerate(handout.classes, 1)}
    annotations: list[dict[str, object]] = []
    images = []
    drafted = Drafted()
    for number, (file, tasks) in enumerate(part.by_file.items(), 1):
        height, width = tasks[0].frame_size
        images.append({"id": number, "file_name": file, "height": height, "width": width})
        for task in tasks:
            layers = draft_layers(drafts, task)
            drafted.add(task, layers)
            for layer in layers:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": ids[layer.name],
                        **_written(layer, task.frame_size),
                        "iscrowd": 0,
                    }
                )
    content: dict[str, object] = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
    return content, drafted


def _written(layer: Layer, size: tuple[int, int]) -> dict[str, object]:
    """A mask as COCO has it."""
    (x, y), (rows, columns) = layer.corner, layer.mask.shape
    height, width = size
    counts = encode_placed(turned(layer.mask), (y, x), width, height)
    return {
        "segmentation": {"size": list(size), "counts": encode_coco(counts)},
        "bbox": [x, y, columns, rows],
        "area": int(counts[1::2].sum()),
    }


@dataclass(frozen=True)
class _Instances:
    """What a file says."""

    file: Path
    images: Sequence[Mapping[str, Any]]
    by_image: Mapping[Any, Sequence[Mapping[str, Any]]]
    names: Mapping[Any, str]
    repeated: frozenset[Any]
    astray: int


def _load(file: Path) -> _Instances:
    content = read_json(file, _EXPECTED)
    lists = [content.get(key) for key in ("images", "annotations", "categories")]
    if not all(isinstance(x, list) and all(isinstance(y, dict) for y in x) for x in lists):
        raise SegalError(
            f"{file}: no instances of COCO",
            expected=_EXPECTED,
            got=", ".join(list(content)[:10]) or "an empty object",
            remedy="export it again, as COCO instances",
        )
    images, annotations, categories = (x or [] for x in lists)
    errors = id_errors(file, "image", images, "file_name")
    raise_all([*errors, *id_errors(file, "category", categories, "name")])
    ids = {image["id"] for image in images}
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    astray = 0
    for annotation in annotations:
        image = annotation.get("image_id")
        if is_id(image) and image in ids:
            by_image.setdefault(image, []).append(annotation)
        else:
            astray += 1
    counts = Counter(one["id"] for one in annotations if is_id(one.get("id")))
    return _Instances(
        file,
        images,
        by_image,
        {category["id"]: category["name"] for category in categories},
        frozenset(number for number, times in counts.items() if times > 1),
        astray,
    )


def _read(file: Path, part: Part, handout: Handout) -> Iterator[Answer | SegalError]:
    said = _load(file)
    if not said.images:
        yield no_answers(file, _EXPECTED)
    gathered, names = Gathered.of(part, handout), FileNames(part)
    if said.astray:
        yield SegalError(
            f"{file}: annotations of images that it does not list ({said.astray})",
            expected="the image_id of a listed image",
            got=f"{said.astray} of others",
            remedy="export all images together with their annotations",
        )
    found = {image["id"]: names.find(image["file_name"]) for image in said.images}
    strangers = [x["file_name"] for x in said.images if found[x["id"]] is None]
    if strangers:
        yield not_handed_out(file, strangers, part.by_file)
    times = Counter(found.values())
    for image in said.images:
        shown = found[image["id"]]
        if shown is None:
            continue
        size = (image.get("height"), image.get("width"))
        tasks = fitting(part.by_file[shown], size)
        reply = Reply(f"{file}: image {image['id']} ({image['file_name']})")
        try:
            if times[shown] > 1:
                got = f"{times[shown]} images"
                raise Mistake(file, "an image that is listed twice", "once", got, "leave one")
            _read_image(reply, image, said, tasks[0], handout.question)
        except Mistake as mistake:
            reply.fail(mistake, tasks)
        yield from gathered.answers(reply, tasks)


def _read_image(
    reply: Reply, image: Mapping[str, Any], said: _Instances, task: AnnotationTask, question: str
) -> None:
    annotations = said.by_image.get(image["id"], ())
    if not annotations:
        return
    check_size(task, reply.source, (image.get("height"), image.get("width")))
    twice = {one["id"] for one in annotations if is_id(one.get("id"))} & said.repeated
    if twice:
        shown = ", ".join(sorted(map(str, twice))[:5])
        reply.notes.append(f"annotation ids that occur twice, which are not used: {shown}")
    drawn: list[tuple[str, str, object]] = []
    for place, annotation in enumerate(annotations):
        source = f"{reply.source}, annotation {annotation.get('id', f'at {place}')!s:.40}"
        category = annotation.get("category_id")
        if not is_id(category) or category not in said.names:
            listed = ", ".join(f"{number} ({name})" for number, name in said.names.items())
            remedy = "give it a listed category"
            raise Mistake(source, "of no category", listed[:200], repr(category), remedy)
        name = said.names[category]
        if question == "detection":
            reply.boxes.append(DrawnBox(name, _box(annotation, task, source)))
            continue
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, list):
            reply.lossy = RASTERISER
        drawn.append((source, name, segmentation))
    _add_masks(reply, drawn, task)


def _add_masks(
    reply: Reply, drawn: Sequence[tuple[str, str, object]], task: AnnotationTask
) -> None:
    """Takes the masks of an image, in order: of each the source, the name and what is said."""
    packed = [
        (source, checked_counts(said, task, source))
        for source, _, said in drawn
        if isinstance(said, dict)
    ]
    layers = unpacked(packed, task.frame_size)
    for source, name, said in drawn:
        layer = next(layers) if isinstance(said, dict) else _filled(said, task, source)
        reply.add(None if layer is None else replace(layer, name=name), task)


def _box(
    annotation: Mapping[str, Any], task: AnnotationTask, source: str
) -> tuple[float, float, float, float]:
    """Of the mask, where there is one."""
    segmentation, box = annotation.get("segmentation"), annotation.get("bbox")
    if isinstance(segmentation, dict):
        counts = checked_counts(segmentation, task, source)
        layer = next(unpacked([(source, counts)], task.frame_size))
        if layer is not None:
            (left, top), (rows, columns) = layer.corner, layer.mask.shape
            return float(left), float(top), float(left + columns), float(top + rows)
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        remedy = "export boxes with it"
        raise Mistake(source, "without a box", "bbox: x, y, width, height", f"{box!r:.100}", remedy)
    x, y, width, height = map(float, box)
    return whole_box(task, source, (x, y, x + width, y + height))


def _filled(segmentation: object, task: AnnotationTask, source: str) -> Layer | None:
    """The pixels of polygons; None where there are none."""
    if not isinstance(segmentation, list) or not segmentation:
        raise Mistake(
            source,
            "without a mask",
            "segmentation: run lengths, or a list of polygons",
            f"{segmentation!r:.100}",
            "draw masks or polygons, and export them",
        )
    polygons = []
    for polygon in segmentation:
        flat = polygon if isinstance(polygon, list) else []
        pairs = [flat[i : i + 2] for i in range(0, len(flat), 2)]
        polygons.append([x for pair in outline(task, source, pairs) for x in pair])
    whole = coco_mask.merge(coco_mask.frPyObjects(polygons, *task.frame_size))
    return trimmed(Layer("", coco_mask.decode(whole).astype(np.bool_)))


def checked_counts(segmentation: Mapping[str, Any], task: AnnotationTask, source: object) -> object:
    """What is said of run lengths, of an image of the size of a task's frame."""
    given: Any = segmentation.get("size")
    is_pair = isinstance(given, list) and len(given) == 2
    check_size(task, source, (given[0], given[1]) if is_pair else (given, None))
    return segmentation.get("counts")


def unpacked(
    said: Sequence[tuple[object, object]], size: tuple[int, int]
) -> Iterator[Layer | None]:
    """The pixels of run lengths, which go down the columns, without a name; None for nothing.

    Args:
        said: Of each mask where it is said, for messages, and the run lengths, as `counted` takes
            them.
        size: (height, width).

    Raises:
        Mistake: As `counted`.
    """
    if not said:
        return
    texts = [counts for _, counts in said if isinstance(counts, str)]
    try:
        if len(texts) < len(said):
            raise ValueError("lists, too")
        counts, bounds = decode_cocos(texts)
        begins = [0, *bounds[:-1]]
        sums = np.add.reduceat(counts, begins) if bounds else counts
        if (counts < 0).any() or (sums != size[0] * size[1]).any():
            raise ValueError("other sums")
    except ValueError:  # one after the other, to tell which
        each = [counted(counts, size, source) for source, counts in said]
        counts, bounds = np.concatenate(each), np.cumsum([len(one) for one in each]).tolist()
    for mask, (y, x) in decode_cropped(counts, bounds, size[1], size[0]):
        yield Layer("", turned(mask), (x, y)) if mask.size else None


def counted(counts: object, size: tuple[int, int], source: object) -> NDArray[np.int64]:
    """Run lengths, of which none is negative and the sum is the image's pixels.

    pycocotools does not look at the sum, and what it makes of one that is too small is not defined.

    Args:
        counts: A list, or the text that stands for one in COCO.
        size: (height, width).
        source: For messages.

    Raises:
        Mistake: If they are none.
    """
    total = size[0] * size[1]
    lengths, got = None, "no run lengths"
    if isinstance(counts, str):
        try:
            lengths = decode_coco(counts)
        except ValueError as error:
            got = str(error)
    elif isinstance(counts, list) and all(type(x) is int and 0 <= x <= total for x in counts):
        lengths = np.array(counts, np.int64)
    if lengths is None or (lengths < 0).any() or lengths.sum() != total:
        got = got if lengths is None else f"a sum of {lengths.sum()}"
        expected = f"whole numbers from 0, of the sum {total} ({size[0]} x {size[1]})"
        remedy = "export it again; the file is cut short, or of another image"
        raise Mistake(source, "run lengths that are not of this image", expected, got, remedy)
    return lengths
