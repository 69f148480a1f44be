"""Pascal VOC: PNGs with a palette, and XML with boxes, as labelling tools write both.

    SegmentationClass/PATH.png     a pixel's value, by classes.txt or labelmap.txt; else VOC's own
    drafts/PATH.png                what the network drew
    Annotations/PATH.xml           boxes
    classes.txt, regions.json

Source: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from segal.annotation.answers import Answer, DrawnBox
from segal.annotation.formats.base import Drafts, WriteOptions
from segal.annotation.formats.folder import (
    check_names,
    plain_meaning,
    read_meaning,
    write_masks,
)
from segal.annotation.formats.shared.drafted_boxes import labelled_images
from segal.annotation.formats.shared.files import (
    FileNames,
    Gathered,
    Part,
    Reply,
    check_handout,
    files_at,
    new_parts,
    parts,
    stem,
)
from segal.annotation.formats.shared.frames import whole_box
from segal.annotation.formats.shared.label_images import LabelFiles, read_label_images
from segal.annotation.formats.shared.mistakes import (
    Mistake,
    check_one_frame,
    check_size,
    not_handed_out,
)
from segal.annotation.formats.shared.tools import no_answers
from segal.annotation.handout import CONTEXT, CROP, AnnotationTask, Handout, Mode, fitting
from segal.annotation.questions.base import VOID
from segal.data.find import check_path, real_path
from segal.data.layout import Classes, make_classes
from segal.data.voc import NAMES
from segal.errors import SegalError
from segal.tasks.detection.annotation_xml import Annotation, read_annotation
from segal.tasks.detection.writing import write_labels

MASKS, DRAFTS, BOXES = "SegmentationClass", "drafts", "Annotations"
SPLIT = "default"


class Voc:
    """PNGs with a palette, or XML with boxes."""

    name = "voc"
    questions: tuple[str, ...] = ("segmentation", "detection")
    modes: tuple[Mode, ...] = (CONTEXT, CROP)
    is_lossless = True

    def check(self, handout: Handout) -> None:
        """Raises a SegalError for names that lists of classes do not keep."""
        check_handout(handout)
        if handout.question == "segmentation":
            check_names(handout)

    def write(
        self, folder: Path, handout: Handout, drafts: Drafts | None, options: WriteOptions
    ) -> list[Path]:
        """See `formats.base.Format`."""
        files = []
        for part in new_parts(folder, handout):
            if handout.question == "segmentation":
                written, drafted = write_masks(part, handout, drafts, options, MASKS)
            else:
                images, drafted = labelled_images(part, handout.classes, drafts)
                some = [image for image in images if len(image.objects)]
                written = write_labels(part.root, "voc", SPLIT, some, handout.classes)
                (part.root / BOXES).mkdir(exist_ok=True)
            files += [*written, drafted.write(part, handout)]
        return files

    def read(self, path: Path, handout: Handout) -> Iterator[Answer | SegalError]:
        """See `formats.base.Format`."""
        for part in parts(path, handout):
            if handout.question == "segmentation":
                names = FileNames(part, stem)
                found = LabelFiles.find(MASKS, part, names, skipped=(DRAFTS,))
                meaning = read_meaning(part, _default(handout))
                yield from read_label_images(found, part, handout, meaning)
            else:
                yield from _read(part, handout)


def _default(handout: Handout) -> Classes:
    """VOC's values where the classes are VOC's; else in the order of the classes."""
    if set(handout.classes) <= {*NAMES, VOID}:
        return make_classes(list(enumerate(NAMES)))
    return plain_meaning(handout)


def _read(part: Part, handout: Handout) -> Iterator[Answer | SegalError]:
    root, gathered = part.within(BOXES), Gathered.of(part, handout)
    folder = root if root.is_dir() else root.parent
    real_root, stems, strangers = real_path(folder), FileNames(part, stem), []
    paths = files_at(root, (".xml",))
    if not paths and not part.is_as_written(BOXES):
        yield no_answers(part.root, "files .xml, named as what was handed out")
    for path in paths:
        relative, file = path.relative_to(folder), stems.find_path(path, root)
        if file is None:
            strangers.append(relative.as_posix())
            continue
        tasks, reply = fitting(part.by_file[file], None), Reply(str(path))
        try:
            check_path(folder, relative.as_posix(), real_root)
            annotation = read_annotation(path)
            if annotation.size is None:
                check_one_frame(part.by_file[file], path)
            tasks = fitting(part.by_file[file], annotation.size)
            _boxes(reply, path, annotation, tasks[0])
            # Where nothing was drawn beforehand, whoever saved a file has looked at the image.
            reply.is_done = handout.model is None
        except SegalError as error:
            reply.fail(Mistake.of_error(error, path), tasks)
        except Mistake as mistake:
            reply.fail(mistake, tasks)
        yield from gathered.answers(reply, tasks)
    if strangers:
        yield not_handed_out(root, strangers, part.by_file)


def _boxes(reply: Reply, path: Path, annotation: Annotation, task: AnnotationTask) -> None:
    if annotation.size is None:
        reply.notes.append("it does not say the size of the image, which was not compared")
    else:
        check_size(task, path, annotation.size)
    for number, one in enumerate(annotation.objects, 1):
        source = f"{path}: object {number}"
        corners = np.array(one.box)
        if not np.isfinite(corners).all():
            got = ", ".join(one.corners.values())
            raise Mistake(source, "a box that is none", "four numbers", got, "mend it in the tool")
        reply.boxes.append(DrawnBox(one.name, whole_box(task, source, one.box)))
