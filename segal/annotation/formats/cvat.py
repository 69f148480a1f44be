"""CVAT: images 1.1 in XML, both ways.

The region is a box of a label that is no class, with three attributes: `task`, by which it is known
again, `annotator`, and `done`, which annotators tick. CVAT does not say of an image whether anybody
has worked on it, so a region is answered

- where `done` is ticked, or,
- of a file in which nothing at all is ticked, where a person has drawn something of which at least
  half lies in the region, or that covers at least half of it.

So a stroke that reaches over a neighbouring region does not answer that one. What was uploaded and
not touched since has the source `file`: it is the network's, where the network's word was handed
out. Of shapes of one z_order CVAT has no order.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from xml.sax.saxutils import escape, quoteattr

from segal.annotation.answers import Answer
from segal.annotation.formats.base import Drafts, WriteOptions
from segal.annotation.formats.cvat_answers import ANNOTATOR, DONE, TASK, Reply, is_any_ticked
from segal.annotation.formats.cvat_xml import EXPECTED, Picture, pictures
from segal.annotation.formats.shared.tools import (
    OUTLINE,
    REGION,
    by_annotator,
    check_names,
    coloured,
    files_in,
    no_answers,
    of_wholes,
    trimmed,
)
from segal.annotation.handout import AnnotationTask, Handout, Mode
from segal.errors import SegalError
from segal.functional.rle import encode_counts
from segal.system.files import write_error

TASKS_FILE, LABELS_FILE, IMAGES_FILE = "annotations{}.xml", "labels.json", "images{}.txt"
_LONGEST_NAME = 64
_DRAFT, _ABOVE = 0, 1  # z_order; what is drawn anew lies as high as the highest shape
_TYPES = {"segmentation": "any", "detection": "rectangle"}


class Cvat:
    """The format `cvat`."""

    name = "cvat"
    questions: tuple[str, ...] = ("classification", "detection", "multilabel", "segmentation")
    modes: tuple[Mode, ...] = ("context", "crop")
    is_lossless = True

    def check(self, handout: Handout) -> None:
        """As `Format.check`; CVAT cuts longer names of labels without a word."""
        check_names(handout, longest=_LONGEST_NAME)
        names = {name for task in handout.tasks for name in (task.file, task.annotator)}
        bad = sorted(name for name in names if not name.isprintable() and name)
        if bad:
            raise SegalError(
                f"{self.name}: files or annotators whose names XML cannot hold",
                expected="names that can be printed",
                got=", ".join(f"{name!r:.80}" for name in bad[:5]),
                remedy="rename them",
            )

    def write(
        self, folder: Path, handout: Handout, drafts: Drafts | None, options: WriteOptions
    ) -> list[Path]:
        """As `Format.write`: what to upload for each annotator, their images, and the labels."""
        labels = _labels(handout, options)
        paths = [folder / LABELS_FILE]
        try:
            paths[0].write_text(json.dumps(labels, indent=1) + "\n", "utf-8")
            for suffix, tasks in by_annotator(handout).items():
                by_file: dict[str, list[AnnotationTask]] = {}
                for task in tasks:
                    by_file.setdefault(task.file, []).append(task)
                paths.append(folder / IMAGES_FILE.format(suffix))
                paths[-1].write_text("".join(f"{file}\n" for file in by_file), "utf-8")
                paths.append(folder / TASKS_FILE.format(suffix))
                with paths[-1].open("w", encoding="utf-8") as file:
                    _write_head(file, handout, labels, len(by_file))
                    for number, own in enumerate(by_file.values()):
                        _write_image(file, number, own, handout, drafts)
                    file.write("</annotations>\n")
        except OSError as error:
            raise write_error(paths[-1], error) from error
        return paths

    def read(self, path: Path, handout: Handout) -> Iterator[Answer | SegalError]:
        """As `Format.read`: a file of XML or ZIP, or a folder of them."""
        for file in files_in(path, (".xml", ".zip")):
            ticked = is_any_ticked(pictures(file))
            by_file: dict[str, list[AnnotationTask]] = {}
            for task in handout.tasks:
                by_file.setdefault(task.file, []).append(task)
            picture: Picture | None = None
            for picture in pictures(file):
                yield from Reply(file, picture, handout, ticked).answers(by_file)
            if picture is None:
                yield no_answers(file, EXPECTED)


def _labels(handout: Handout, options: WriteOptions) -> list[dict[str, Any]]:
    """The labels, as CVAT's «Raw» takes them."""
    kind = _TYPES.get(handout.question, "tag")
    text = {"mutable": False, "input_type": "text", "default_value": "", "values": [""]}
    tick = {
        "mutable": False,
        "input_type": "checkbox",
        "default_value": "false",
        "values": ["false"],
    }
    asked = [{"name": TASK, **text}, {"name": ANNOTATOR, **text}, {"name": DONE, **tick}]
    region_kind = "tag" if of_wholes(handout) else "rectangle"
    return [
        *(
            {"name": name, "color": colour, "type": kind, "attributes": []}
            for name, colour in coloured(handout, options)
        ),
        {"name": REGION, "color": OUTLINE, "type": region_kind, "attributes": asked},
    ]


def _write_head(
    file: IO[str], handout: Handout, labels: Sequence[Mapping[str, Any]], images: int
) -> None:
    """What stands before the images; CVAT leaves it unread, others know the labels of it."""
    file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
    file.write(f"  <meta>\n    <task>\n      <name>{escape(handout.run)}</name>\n")
    file.write(f"      <size>{images}</size>\n      <mode>annotation</mode>\n      <labels>\n")
    for label in labels:
        file.write(f"        <label>\n          <name>{escape(str(label['name']))}</name>\n")
        for key in ("color", "type"):
            file.write(f"          <{key}>{label[key]}</{key}>\n")
        file.write("          <attributes>\n")
        if label["name"] == REGION:
            for name, kind in ((TASK, "text"), (ANNOTATOR, "text"), (DONE, "checkbox")):
                values = "false" if kind == "checkbox" else ""
                file.write(
                    f"            <attribute><name>{name}</name><mutable>False</mutable>"
                    f"<input_type>{kind}</input_type><default_value>{values}</default_value>"
                    f"<values>{values}</values></attribute>\n"
                )
        file.write("          </attributes>\n        </label>\n")
    file.write("      </labels>\n    </task>\n  </meta>\n")


def _write_image(
    file: IO[str],
    number: int,
    tasks: Sequence[AnnotationTask],
    handout: Handout,
    drafts: Drafts | None,
) -> None:
    """An image with the regions of its tasks, and what the network says of them."""
    height, width = tasks[0].frame_size
    name = quoteattr(tasks[0].file)
    file.write(f'  <image id="{number}" name={name} width="{width}" height="{height}">\n')
    for task in tasks:
        drawn = drafts(task) if drafts is not None else None
        if drawn is not None:
            file.writelines(_drafted(drawn))
    for task in tasks:
        given = "" if of_wholes(handout) else _place(task.region_in_frame, _ABOVE)
        tag = "tag" if of_wholes(handout) else "box"
        attributes = {TASK: task.key, ANNOTATOR: task.annotator, DONE: "false"}
        file.write(f'    <{tag} label="{REGION}" source="file"{given}>\n')
        for key, value in attributes.items():
            file.write(f'      <attribute name="{key}">{escape(value)}</attribute>\n')
        file.write(f"    </{tag}>\n")
    file.write("  </image>\n")


def _place(corners: Sequence[float], z_order: int) -> str:
    named = zip(("xtl", "ytl", "xbr", "ybr"), corners, strict=True)
    places = "".join(f' {name}="{corner}"' for name, corner in named)
    return f' occluded="0"{places} z_order="{z_order}"'


def _drafted(drawn: Answer) -> Iterator[str]:
    """What the network says, whatever was asked."""
    for layer in sorted(drawn.layers, key=lambda layer: layer.order):
        mask, (left, top) = trimmed(layer.mask, layer.corner)
        if not mask.size:  # an empty one would be read as one of a pixel
            continue
        height, width = mask.shape
        runs = str(encode_counts(mask).tolist())[1:-1]
        yield (
            f'    <mask label={quoteattr(layer.name)} source="file" occluded="0" rle="{runs}" '
            f'left="{left}" top="{top}" width="{width}" height="{height}" z_order="{_DRAFT}">'
            "</mask>\n"
        )
    for box in drawn.boxes:
        given = _place(box.box, _DRAFT)
        yield f'    <box label={quoteattr(box.name)} source="file"{given}></box>\n'
    for name in drawn.choices:
        yield f'    <tag label={quoteattr(name)} source="file"></tag>\n'
