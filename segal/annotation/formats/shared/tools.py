"""What the formats of annotation tools have in common, which have tasks and labels of their own."""

import math
import re
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from segal.annotation.formats.base import WriteOptions
from segal.annotation.handout import AnnotationTask, Handout
from segal.annotation.questions import QUESTIONS
from segal.errors import SegalError, raise_all
from segal.functional.rle import decode_counts
from segal.functional.rle_coco import decode_coco
from segal.system.files import read_error

REGION = "segal_region"
"""The label of what is to be labelled; no class."""
RASTERISER = f"polygons, filled by pycocotools {version('pycocotools')}"
OUTLINE, GREY = "#ffd400", (128, 128, 128)
SLACK = 0.5
"""Pixels by which a box may leave its image: tools round."""
_LEAST_ROOM, _FRAMES = 2**28, 32
_SHOWN = 5


class Mistake(Exception):
    """What is wrong with an answer, before it is said whose it is.

    Args:
        problem: What.
        expected: What would have been right.
        got: What was found instead.
        remedy: What to do about it.
    """

    def __init__(self, problem: str, expected: str, got: object, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.expected, self.remedy = problem, expected, remedy
        self.got = f"{got!r:.100}" if not isinstance(got, str) else got[:200]

    def of(self, source: str, task: AnnotationTask) -> SegalError:
        """The error of a task."""
        x0, y0, x1, y1 = task.region
        region = f"x {x0}, y {y0}, width {x1 - x0}, height {y1 - y0}"
        return SegalError(
            f"{source}: task {task.key}, {task.image} at {region}: {self.problem}",
            expected=self.expected,
            got=self.got,
            remedy=self.remedy,
        )


def check_names(
    handout: Handout,
    *,
    longest: int | None = None,
    reserved: str | None = None,
    told_as: Callable[[str], str] = str,
) -> None:
    """Refuses names of labels that a tool changes, mixes up or cannot show.

    Args:
        handout: Whose classes.
        longest: Characters that the tool keeps; None for all.
        reserved: A pattern of what the tool takes for something else.
        told_as: What the tool makes of a name where it writes files.

    Raises:
        SegalError: For all of them.
    """
    names, errors = list(handout.classes), []

    def refuse(what: str, found: Sequence[str], remedy: str) -> None:
        if found:
            errors.append(
                SegalError(
                    f"{handout.kind}: {what}",
                    expected="names of classes that the tool gives back as they are",
                    got=", ".join(f"{name!r:.80}" for name in found[:_SHOWN]),
                    remedy=remedy,
                )
            )

    rename = "rename the classes"
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(told_as(name[:longest]), []).append(name)
    twice = [name for same in alike.values() if len(same) > 1 for name in same]
    refuse("classes that the tool cannot tell apart", twice, rename)
    bad = [x for x in names if not x or x != x.strip() or not x.isprintable()]
    refuse("names that are empty, have blanks around them or cannot be printed", bad, rename)
    if longest is not None:
        long = [name for name in names if len(name) > longest]
        refuse(f"names of more than {longest} characters, which are cut", long, rename)
    if reserved is not None:
        taken = [name for name in names if re.search(reserved, name)]
        refuse("names of which the tool takes a part for something else", taken, rename)
    region = [name for name in names if name.strip().lower() == REGION]
    refuse(f"a class named as the region's own label, {REGION}", region, rename)
    raise_all(errors)


def of_wholes(handout: Handout) -> bool:
    """Whether an image has an answer as a whole, so that no region is shown in it."""
    return QUESTIONS[handout.question].of_wholes


def by_annotator(handout: Handout) -> Mapping[str, Sequence[AnnotationTask]]:
    """Tasks by what is added to the name of their file: nothing, or a dash and whose they are."""
    own: dict[str, list[AnnotationTask]] = {}
    for task in handout.tasks:
        own.setdefault(task.annotator, []).append(task)
    files: dict[str, list[AnnotationTask]] = {}
    for annotator in sorted(own):
        plain = re.sub(r"[^\w.-]+", "-", annotator).strip("-.").lower()
        suffix, number = f"-{plain}" if annotator else "", 1
        while suffix in files or suffix == "-":
            number += 1
            suffix = f"-{plain}-{number}" if plain else f"-{number}"
        files[suffix] = own[annotator]
    return files


def coloured(handout: Handout, options: WriteOptions) -> list[tuple[str, str]]:
    """Labels with their colours as #rrggbb; grey where none is given."""
    pairs = zip_longest(handout.classes, options.colours[: len(handout.classes)], fillvalue=GREY)
    return [(str(name), "#{:02x}{:02x}{:02x}".format(*colour)) for name, colour in pairs]


def files_in(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """A file; or of a folder those with one of some suffixes, by name.

    Raises:
        SegalError: If there is none, or the file is an archive and none of the suffixes says so.
    """
    if not path.is_dir():
        if ".zip" not in suffixes:
            check_unpacked(path)
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
    if not found:
        raise SegalError(
            f"{path}: nothing that came back",
            expected=f"files that end with {' or '.join(suffixes)}",
            got="none",
            remedy="give the file that the tool exported, or the folder where it is",
        )
    return found


def check_unpacked(path: Path) -> None:
    """Raises a SegalError if what came back is an archive, or cannot be read."""
    try:
        is_packed = path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
        path.stat()
    except (OSError, ValueError) as error:
        reason = error if isinstance(error, OSError) else OSError(str(error))
        raise read_error(path, reason, "what the tool exported") from error
    if is_packed:
        raise SegalError(
            f"{path}: an archive",
            expected="the files that are in it",
            got="a ZIP or TAR file",
            remedy="unpack it, and give the folder",
        )


def no_answers(path: Path, expected: str) -> SegalError:
    """What is wrong where nothing came back that a format reads.

    Args:
        path: What was given.
        expected: What the format reads.
    """
    names = sorted(one.name for one in path.iterdir()) if path.is_dir() else []
    shown = ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
    return SegalError(
        f"{path}: no answers in it",
        expected=expected,
        got=shown[:300] or "nothing",
        remedy="give what the tool exported; if that is of another format, name it with --from",
    )


class Room:
    """How many pixels the masks of one answer may have together.

    Args:
        task: Whose frame is the measure.
    """

    def __init__(self, task: AnnotationTask) -> None:
        height, width = task.frame_size
        self._most = self._left = max(_LEAST_ROOM, _FRAMES * height * width)

    def take(self, pixels: int) -> None:
        """Raises a Mistake where they do not fit."""
        self._left -= pixels
        if self._left < 0:
            raise Mistake(
                "more is drawn than anybody draws",
                f"masks of at most {self._most:,} pixels together",
                "more",
                "look at the task in the tool, and delete what nobody drew",
            )


def check_size(task: AnnotationTask, height: object, width: object) -> None:
    """Raises a Mistake where the tool's image has another size than what was handed out."""
    if (height, width) != task.frame_size or isinstance(height, bool) or isinstance(width, bool):
        wanted = task.frame_size
        turned = " (the sides are swapped)" if (width, height) == wanted else ""
        raise Mistake(
            "drawn on an image of another size",
            f"width {wanted[1]}, height {wanted[0]}, turned as its EXIF data says",
            f"width {width!r:.20}, height {height!r:.20}{turned}",
            "see that the tool shows the image that was handed out, and label it again",
        )


def whole_box(task: AnnotationTask, corners: Sequence[float]) -> tuple[float, float, float, float]:
    """A box within a frame, but for what tools round.

    Args:
        task: Whose frame.
        corners: x0, y0, x1, y1 in pixels.

    Raises:
        Mistake: If it has no area or leaves the frame.
    """
    height, width = task.frame_size
    x0, y0, x1, y1 = corners
    inside = min(x0, y0) >= -SLACK and x1 <= width + SLACK and y1 <= height + SLACK
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if not (inside and x0 < x1 and y0 < y1):
        raise Mistake(
            "a box that has no area or leaves the image",
            f"corners from 0, 0 to {width}, {height}, the first above and left of the other",
            ", ".join(f"{corner:.2f}" for corner in corners),
            "mend it in the tool",
        )
    return x0, y0, x1, y1


def check_region(task: AnnotationTask, corners: Sequence[float]) -> None:
    """Raises a Mistake where the region's outline is no longer where it was handed out."""
    if any(
        abs(one - other) > SLACK for one, other in zip(corners, task.region_in_frame, strict=True)
    ):
        x0, y0, x1, y1 = corners
        left, top, right, bottom = task.region_in_frame
        raise Mistake(
            "the region's outline was moved",
            f"x {left}, y {top}, width {right - left}, height {bottom - top}",
            f"x {x0:.2f}, y {y0:.2f}, width {x1 - x0:.2f}, height {y1 - y0:.2f}",
            "move it back in the tool; what is to be labelled lies within it",
        )


def filled(
    task: AnnotationTask, points: Sequence[tuple[float, float]], room: Room
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """The pixels of a polygon in a frame, and the corner of their mask.

    Args:
        task: Whose frame.
        points: (x, y) of its vertices in pixels, continuous edges.
        room: For the mask.

    Raises:
        Mistake: If they are fewer than 3, not finite, or farther from the frame than it is large.
    """
    height, width = task.frame_size
    near = all(
        math.isfinite(x + y) and -width <= x <= 2 * width and -height <= y <= 2 * height
        for x, y in points
    )
    if len(points) < 3 or not near:
        raise Mistake(
            "an outline that is none, or far from the image",
            f"at least 3 points within {width} x {height}",
            f"{len(points)} points, such as {points[0] if points else None!r:.60}",
            "draw it again",
        )
    outline = np.array(points, np.float64)
    # pycocotools fills a shape at its canvas's border otherwise than within.
    first = np.floor(outline.min(0)).astype(int) - 1
    columns, rows = (np.ceil(outline.max(0)).astype(int) + 1 - first).tolist()
    room.take(columns * rows)
    flat = [(outline - first).reshape(-1).tolist()]
    counts = decode_coco(coco.frPyObjects(flat, rows, columns)[0]["counts"])
    canvas = decode_counts(counts, columns, rows).T
    x, y = first.tolist()
    inside = canvas[max(-y, 0) : height - y, max(-x, 0) : width - x]
    return trimmed(inside, (max(x, 0), max(y, 0)))


def trimmed(
    mask: NDArray[np.bool_], corner: tuple[int, int]
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """A mask no larger than it needs to be, and its corner; (0, 0) pixels where it is empty."""
    if mask.size and all(side.any() for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1])):
        return mask, corner
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return mask[y : y + height, x : x + width].copy(), (corner[0] + x, corner[1] + y)
