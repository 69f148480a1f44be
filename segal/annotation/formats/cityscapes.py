"""Cityscapes: official label ids as PNGs, and the polygons of the official labelling tool.

    gtFine/PATH_gtFine_labelIds.png        a pixel's official id; 0 is nothing
    gtFine/PATH_gtFine_polygons.json       read where there is no PNG: lossy
    drafts/PATH_gtFine_labelIds.png        what the network drew
    regions.json                           where the regions are

Official labels that are no class of the run, such as `static`, are void. PATH is the image's,
without suffix and `_leftImg8bit`. Polygons are filled as the official `json2labelImg` fills them:
in the order of the file, by Pillow, edge included; what is called `cargroup` is a car, unless there
is a label of the whole name, as there is of `polegroup`.

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016,
and cityscapesScripts 2.3.0.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segal.annotation.answers import Answer, Layer
from segal.annotation.formats.base import Drafts, WriteOptions
from segal.annotation.formats.shared.files import (
    FileNames,
    Gathered,
    Part,
    Reply,
    check_handout,
    files_at,
    new_parts,
    parts,
    put,
    read_json,
    stem,
)
from segal.annotation.formats.shared.frames import PILLOW, outline, trimmed
from segal.annotation.formats.shared.label_images import (
    LabelFiles,
    Meaning,
    full_palette,
    read_label_images,
    write_drafts,
)
from segal.annotation.formats.shared.mistakes import Mistake, check_size, not_handed_out
from segal.annotation.handout import CONTEXT, CROP, AnnotationTask, Handout, Mode, fitting
from segal.annotation.questions.base import VOID
from segal.data.cityscapes import CLASSES
from segal.data.find import check_path, real_path
from segal.data.layout import make_classes
from segal.errors import SegalError
from segal.functional.labels import IGNORE_INDEX

_VOID = (
    *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic"),
    *("ground", "parking", "rail track", "guard rail", "bridge", "tunnel", "polegroup"),
    *("caravan", "trailer"),
)
_VOID_IDS = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
IDS: Mapping[str, int] = {
    **dict(zip(_VOID, _VOID_IDS, strict=True)),
    **{name: number for number, name, _ in CLASSES},
}
"""The official ids by name, but for the license plate, which is not drawn (its id is -1)."""
NOT_DRAWN = "license plate"
FOLDER, DRAFTS = "gtFine", "drafts"
_IMAGE, _LABELS, _POLYGONS = "_leftImg8bit", "_gtFine_labelIds", "_gtFine_polygons"
_MAX_BYTES = 2**28


class Cityscapes:
    """Official label ids and polygons of Cityscapes."""

    name = "cityscapes"
    questions: tuple[str, ...] = ("segmentation",)
    modes: tuple[Mode, ...] = (CONTEXT, CROP)
    is_lossless = True

    def check(self, handout: Handout) -> None:
        """Raises a SegalError for classes that are none of Cityscapes'."""
        check_handout(handout)
        strange = [name for name in _classes(handout) if not IDS.get(name)]
        if strange:
            raise SegalError(
                f"{self.name}: classes that Cityscapes does not have",
                expected=", ".join(name for name, number in IDS.items() if number),
                got=", ".join(map(repr, strange[:5])),
                remedy="choose another format, such as folder",
            )

    def write(
        self, folder: Path, handout: Handout, drafts: Drafts | None, options: WriteOptions
    ) -> list[Path]:
        """See `formats.base.Format`."""
        files = []
        values = {name: IDS[name] for name in _classes(handout)}
        palette = full_palette(options.colours[: len(values)], list(values.values()))
        for part in new_parts(folder, handout):
            named = {file: f"{_name(file)}{_LABELS}.png" for file in part.by_file}
            written, drafted = write_drafts(
                part.root / DRAFTS, part, drafts, values, palette, 0, named
            )
            for file, tasks in part.by_file.items():
                height, width = tasks[0].frame_size
                empty = {"imgHeight": height, "imgWidth": width, "objects": []}
                path = part.root / FOLDER / f"{_name(file)}{_POLYGONS}.json"
                written.append(put(path, json.dumps(empty).encode()))
            files += [*written, drafted.write(part, handout)]
        return files

    def read(self, path: Path, handout: Handout) -> Iterator[Answer | SegalError]:
        """See `formats.base.Format`."""
        for part in parts(path, handout):
            names = FileNames(part, _name)
            found = LabelFiles.find(FOLDER, part, names, _LABELS, skipped=(DRAFTS,))
            there = files_at(part.within(FOLDER), (".json",))
            found.others = [path for path in there if path.stem.endswith(_POLYGONS)]
            yield from read_label_images(found, part, handout, _meaning(handout))
            yield from _read_polygons(found, part, handout, names)


def _name(file: str) -> str:
    return stem(file).removesuffix(_IMAGE)


def _classes(handout: Handout) -> tuple[str, ...]:
    return handout.classes[: -1 if handout.void else None]


def _meaning(handout: Handout) -> Meaning:
    others = {number: name for name, number in IDS.items() if name not in handout.classes}
    indexed = [(IDS[name], name) for name in _classes(handout)]
    told = {number: name for number, name in others.items() if number}
    if handout.void:
        indexed += [(number, VOID) for number in told]
        told = {}
    return Meaning(make_classes(indexed, [0, *others, IGNORE_INDEX]), told=told)


def _read_polygons(
    found: LabelFiles, part: Part, handout: Handout, names: FileNames
) -> Iterator[Answer | SegalError]:
    """Reads the polygons of images that have no PNG."""
    root, gathered = part.within(FOLDER), Gathered.of(part, handout)
    folder = root if root.is_dir() else root.parent
    real_root, strangers = real_path(folder), []
    for path in found.others:
        relative, file = path.relative_to(folder).as_posix(), names.find_path(path, root, _POLYGONS)
        if file is None:
            strangers.append(relative)
            continue
        asked = [task for task in part.by_file[file] if task.key not in found.by_key]
        if asked and file not in found.by_file:
            tasks, reply = fitting(asked, None), Reply(str(path))
            try:
                check_path(folder, relative, real_root)
                content = read_json(path, "imgHeight, imgWidth and a list of objects", _MAX_BYTES)
                tasks = fitting(asked, (content.get("imgHeight"), content.get("imgWidth")))
                _draw(reply, path, content, tasks[0], handout)
            except SegalError as error:
                reply.fail(Mistake.of_error(error, path), tasks)
            except Mistake as mistake:
                reply.fail(mistake, tasks)
            yield from gathered.answers(reply, tasks)
    if strangers:
        yield not_handed_out(root, strangers, part.by_file)


def _draw(
    reply: Reply, path: Path, content: Mapping[str, Any], task: AnnotationTask, handout: Handout
) -> None:
    objects = content.get("objects")
    if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
        raise Mistake(path, "no list of objects", "objects: [...]", content, "save it again")
    check_size(task, path, (content.get("imgHeight"), content.get("imgWidth")))
    if not objects:
        return
    height, width = task.frame_size
    # 16 bits, since names that are not known are kept for a message beside the official ids.
    image = Image.new("I", (width, height))
    draw = ImageDraw.Draw(image)
    by_value: dict[int, str] = {}
    for number, one in enumerate(objects):
        if one.get("deleted"):
            continue
        source = f"{path}: object {number}"
        name = _label(one, source)
        points = outline(task, source, one.get("polygon"), least=2)
        if name == NOT_DRAWN:
            continue
        value = IDS.get(name) if name in IDS else 1000 + number
        assert value is not None
        by_value[value] = name
        draw.polygon(points, fill=value)
    pixels: NDArray[np.int32] = np.array(image)
    reply.lossy = PILLOW
    for value, name in by_value.items():
        layer = trimmed(Layer(name, pixels == value))
        if layer is None:
            continue
        if name not in IDS or name in handout.classes:
            reply.layers.append(layer)
        elif value and handout.void:
            reply.layers.append(replace(layer, name=VOID))
        elif value:
            count = int(np.count_nonzero(layer.mask))
            note = f"{count} pixels of {name!r}, which is no class, are taken for unpainted"
            reply.notes.append(note)


def _label(one: Mapping[str, Any], source: str) -> str:
    name = one.get("label")
    if not isinstance(name, str):
        raise Mistake(source, "without a label", "label: a name", repr(name), "name it")
    known = {*IDS, NOT_DRAWN}
    single = name.removesuffix("group")
    return single if name not in known and single in known else name
