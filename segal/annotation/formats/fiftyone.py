"""FiftyOne's folders: what it imports and exports without its database being needed here.

    labels/PATH.png           ImageSegmentationDirectory: 0 is nothing, classes count from 1
    drafts/PATH.png           likewise, what the network drew
    mask_targets.json         the name of each value, for `dataset.default_mask_targets`
    labels.json               FiftyOneImageDetectionDataset, FiftyOneImageClassificationDataset
    regions.json              where the regions are

Segmentations are whole images (`Segmentation.mask_path`), which keep every pixel; the masks of
single objects (`Detection.mask`) do not, since their boxes are shares of the image's sides that are
cut off to pixels.

Source: FiftyOne 1.22.1, `utils/data/importers.py` and `exporters.py`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segal.annotation.answers import Answer, DrawnBox
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
from segal.annotation.formats.shared.frames import whole_box
from segal.annotation.formats.shared.label_images import (
    LabelFiles,
    Meaning,
    by_stem,
    full_palette,
    read_label_images,
    write_drafts,
)
from segal.annotation.formats.shared.mistakes import (
    Mistake,
    check_one_frame,
    is_number,
    not_handed_out,
)
from segal.annotation.formats.shared.tools import no_answers
from segal.annotation.handout import CONTEXT, CROP, AnnotationTask, Handout, Mode, fitting
from segal.data.layout import MAX_CLASSES, Classes, make_classes
from segal.errors import SegalError
from segal.functional.labels import IGNORE_INDEX

LABELS, DRAFTS = "labels", "drafts"
TARGETS_FILE, LABELS_FILE = "mask_targets.json", "labels.json"
_TARGETS = 'an object of names by value, such as {"1": "road"}, or by colour, "#804080"'
_SAID = "FiftyOne's labels: an object with classes and labels"
_ROUNDING = 1e-6


class FiftyOne:
    """Segmentations as images; boxes and classes as FiftyOne's JSON."""

    name = "fiftyone"
    questions: tuple[str, ...] = ("segmentation", "detection", "classification", "multilabel")
    modes: tuple[Mode, ...] = (CONTEXT, CROP)
    is_lossless = True

    def check(self, handout: Handout) -> None:
        """Raises a SegalError for names that cannot be told apart, or too many."""
        check_handout(handout)
        if handout.question == "segmentation" and len(handout.classes) >= MAX_CLASSES:
            raise SegalError(
                f"{self.name}: too many classes",
                expected=f"at most {MAX_CLASSES - 1}, since 0 and 255 are nothing",
                got=str(len(handout.classes)),
                remedy="choose another format",
            )

    def write(
        self, folder: Path, handout: Handout, drafts: Drafts | None, options: WriteOptions
    ) -> list[Path]:
        """See `formats.base.Format`."""
        files = []
        for part in new_parts(folder, handout):
            if handout.question == "segmentation":
                values = {name: number for number, name in enumerate(handout.classes, 1)}
                palette = full_palette(options.colours, list(values.values()))
                written, drafted = write_drafts(
                    part.root / DRAFTS, part, drafts, values, palette, 0, by_stem(part)
                )
                targets = {str(number): name for name, number in values.items()}
                written.append(_put(part.root / TARGETS_FILE, targets))
                (part.root / LABELS).mkdir(exist_ok=True)
            else:
                content, drafted = _content(part, handout, drafts)
                written = [_put(part.root / LABELS_FILE, content)]
            files += [*written, drafted.write(part, handout)]
        return files

    def read(self, path: Path, handout: Handout) -> Iterator[Answer | SegalError]:
        """See `formats.base.Format`."""
        for part in parts(path, handout):
            if handout.question == "segmentation":
                names = FileNames(part, stem)
                found = LabelFiles.find(LABELS, part, names, skipped=(DRAFTS,))
                yield from read_label_images(found, part, handout, _meaning(part, handout))
            else:
                yield from _read(part, handout)


def _put(path: Path, content: object) -> Path:
    data = json.dumps(content, ensure_ascii=False, indent=2)
    return put(path, data.encode(errors="surrogateescape"))


def _content(
    part: Part, handout: Handout, drafts: Drafts | None
) -> tuple[dict[str, object], Drafted]:
    numbers = {name: i for i, name in enumerate(handout.classes)}
    labels: dict[str, object] = {}
    drafted = Drafted()
    for file, tasks in part.by_file.items():
        said: list[object] = []
        known = False
        for task in tasks:
            answer = drafts(task) if drafts is not None else None
            known = known or answer is not None
            if answer is None:
                continue
            if handout.question == "detection":
                drafted.add(task, answer.boxes)
                said += [_relative(box, numbers, task) for box in answer.boxes]
            else:
                drafted.add(task, answer.choices)
                said += [numbers[name] for name in answer.choices]
        one = said[0] if handout.question == "classification" and said else None
        several = said if known and said else None
        labels[stem(file)] = one if handout.question == "classification" else several
    return {"classes": list(handout.classes), "labels": labels}, drafted


def _relative(
    drawn: DrawnBox, numbers: Mapping[str, int], task: AnnotationTask
) -> dict[str, object]:
    height, width = task.frame_size
    x0, y0, x1, y1 = drawn.box
    box = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]
    return {"label": numbers[drawn.name], "bounding_box": box}


def _meaning(part: Part, handout: Handout) -> Meaning:
    """By the targets that came back, or that lie above; else as they were written."""
    folders = (part.folder, part.folder.parent)
    there = [folder / TARGETS_FILE for folder in folders if (folder / TARGETS_FILE).is_file()]
    if not there:
        return Meaning(make_classes(list(enumerate(handout.classes, 1)), [0, IGNORE_INDEX]))
    targets = read_json(there[0], _TARGETS, 2**20)
    numbers: list[tuple[int, str]] = []
    colours: list[tuple[str, str]] = []
    for key, name in targets.items():
        if isinstance(name, str) and re.fullmatch(r"\d{1,3}", key, re.ASCII) and int(key) < 256:
            numbers.append((int(key), name))
        elif isinstance(name, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", key):
            colours.append((key, name))
        else:
            raise SegalError(
                f"{there[0]}: no targets of masks",
                expected=_TARGETS,
                got=f"{key!r:.40}: {name!r:.60}",
                remedy="mend the file",
            )
    kept = [(value, name) for value, name in numbers if value not in (0, IGNORE_INDEX)]
    return Meaning(make_classes(kept, [0, IGNORE_INDEX]), _coloured(colours))


def _coloured(targets: list[tuple[str, str]]) -> Classes | None:
    if not targets or len(targets) >= MAX_CLASSES:
        return None
    made = make_classes([(i, name) for i, (_, name) in enumerate(targets)], [len(targets)])
    colours = [tuple(bytes.fromhex(key[1:])) for key, _ in targets]
    black = [] if (0, 0, 0) in colours else [(0, 0, 0)]
    listed = np.array([*colours, *black], np.uint8)
    legal = made.legal.copy()
    legal[IGNORE_INDEX] = False  # what a colour that is not listed becomes
    return Classes(made.names, made.palette, made.lookup, legal, listed)


def _read(part: Part, handout: Handout) -> Iterator[Answer | SegalError]:
    file = part.root if part.root.is_file() else part.root / LABELS_FILE
    content = read_json(file, _SAID)
    labels, classes = content.get("labels"), content.get("classes")
    listed = classes is None or (
        isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    )
    if not isinstance(labels, dict) or not listed:
        raise SegalError(
            f"{file}: no labels of FiftyOne",
            expected=_SAID,
            got=", ".join(list(content)[:10]) or "an empty object",
            remedy="export it again, as FiftyOneImageDetectionDataset or "
            "FiftyOneImageClassificationDataset",
        )
    if not labels:
        yield no_answers(file, _SAID)
    gathered = Gathered.of(part, handout)
    names, stems = FileNames(part), FileNames(part, stem)
    strangers = []
    for key, said in labels.items():
        shown = stems.find(key) or names.find(key)
        if shown is None:
            strangers.append(key)
            continue
        if said is None:
            continue
        tasks, reply = fitting(part.by_file[shown], None), Reply(f"{file}: {key}")
        try:
            many = said if isinstance(said, list) else [said]
            if handout.question == "detection":
                if not isinstance(said, list):
                    raise Mistake(reply.source, "no list of boxes", "a list", said, "export again")
                check_one_frame(part.by_file[shown], reply.source)
                reply.boxes = [_drawn(one, classes, tasks[0], reply.source) for one in said]
                reply.is_done = not said
            else:
                chosen = [_label(one, classes, reply.source) for one in many]
        except Mistake as mistake:
            reply.fail(mistake, tasks)
        if handout.question == "detection" or reply.errors:
            yield from gathered.answers(reply, tasks)
        else:
            is_said = isinstance(said, list) and handout.question == "multilabel"
            yield from gathered.choice(tasks[0], reply.source, chosen, is_said=is_said)
    if strangers:
        yield not_handed_out(file, strangers, part.by_file)


def _label(one: object, classes: list[str] | None, source: str) -> str:
    """The name of a label: a number in the list of classes, or a name."""
    value = one.get("label") if isinstance(one, dict) else one
    if isinstance(value, str) and classes is None:
        return value
    if type(value) is int and classes is not None and 0 <= value < len(classes):
        return classes[value]
    if isinstance(value, str):
        return value
    expected = "a name, or a number in the list of classes"
    raise Mistake(source, "a label that is none", expected, repr(value), "export it again")


def _drawn(one: Any, classes: list[str] | None, task: AnnotationTask, source: str) -> DrawnBox:
    name = _label(one, classes, source)
    box = one.get("bounding_box") if isinstance(one, dict) else None
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        expected = "bounding_box: x, y, width, height as shares of the image's sides"
        raise Mistake(source, "without a box", expected, f"{box!r:.100}", "export it again")
    height, width = task.frame_size
    x, y, w, h = map(float, box)
    corners = (x * width, y * height, (x + w) * width, (y + h) * height)
    return DrawnBox(name, whole_box(task, source, [_exact(corner) for corner in corners]))


def _exact(value: float) -> float:
    """A whole number where only the rounding of floats keeps it from one."""
    return float(round(value)) if abs(value - round(value)) < _ROUNDING else value
