"""A pool of images that knows nothing of labels."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from segal.candidates.kept import Images
from segal.candidates.regions import Box
from segal.data.find import (
    MAX_NAMED,
    check_images,
    counted,
    find_images,
    named,
    no_image,
    walk_images,
)
from segal.data.image_file import RGB, Reading
from segal.data.images import ImageInfo, find_no_data, inspect_image, read_image, read_window
from segal.data.prefetch import prefetch
from segal.data.transforms import stack_images
from segal.data.windows import MASK_SUFFIX
from segal.errors import SegalError
from segal.system.unicode_forms import escaped, lookalikes

_REMEDIES = 2  # that are told for several images at once

Stat = tuple[int, int]
_Inspected = tuple[Stat, ImageInfo]
Progress = Callable[[int, int], None]


def one_of(unit: str) -> str:
    """The word for one element, such as pixel for `pixels`."""
    return unit.removesuffix("s")


@dataclass(frozen=True)
class ImagePool:
    """Images below one folder, inspected and in order.

    Attributes:
        root: The folder.
        paths: Relative to the root, with forward slashes, bytewise sorted unless `subset` reordered
            them.
        infos: Size and digest of each.
        stats: (bytes, mtime in ns) of each file when it was inspected; with the info, what
            `open_pool` takes as `known`.
        skipped: What was left out, each with the reason.
        reading: As `read_image` takes it.
        other: Files of suffixes of images that are not read.
        files: Where each image lies, relative to the root; empty where that is what it is called.
    """

    root: Path
    paths: Sequence[str]
    infos: Sequence[ImageInfo]
    stats: Sequence[Stat]
    skipped: tuple[str, ...] = ()
    reading: Reading = RGB
    other: tuple[str, ...] = ()
    files: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def unit(self) -> str:
        """What elements are called, in messages."""
        return "pixels"

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of an image in elements, of what can be bought: here in pixels."""
        return self.shape(index)

    def shape(self, index: int) -> tuple[int, int]:
        """(height, width) of an image as it is read, in pixels, after EXIF orientation."""
        info = self.infos[index]
        return info.height, info.width

    def read(self, index: int) -> NDArray[Any]:
        """Reads an image as `read_image` does: (H, W, channels), uint8 or float32 in [0, 1].

        Raises:
            SegalError: If it cannot be read, or its size is not the inspected one any more.
        """
        path = self.root / (self.files or self.paths)[index]
        image = read_image(path, self.reading)
        if image.shape[:2] != self.shape(index):
            height, width = self.shape(index)
            raise SegalError(
                f"{path}: the image has changed since it was inspected",
                expected=f"{height} x {width} (height x width)",
                got=f"{image.shape[0]} x {image.shape[1]}",
                remedy="leave the files alone during a run, then run the command again",
            )
        return image

    def is_large(self, index: int) -> bool:
        """Whether an image is too large to be looked at as a whole."""
        return self.reading.large.holds(*self.shape(index))

    def window(self, index: int, box: Box) -> NDArray[Any]:
        """A window of an image, of which, where it is a large TIFF, nothing else is decoded.

        Args:
            index: Of the image.
            box: Half-open (x0, y0, x1, y1), within the image.

        Returns:
            (h, w, channels), as `read`.

        Raises:
            SegalError: As `read` does.
        """
        if not self.is_large(index):
            x0, y0, x1, y1 = box
            return self.read(index)[y0:y1, x0:x1]
        return read_window(self.root / (self.files or self.paths)[index], box, self.reading)

    def no_data(self) -> dict[str, tuple[Box, ...]]:
        """Boxes without data by path, of the images that `Reading.large` says; see `find_no_data`.

        Raises:
            SegalError: If an image cannot be read.
        """
        wanted = self.reading.large.no_data
        found = {}
        for index, path in enumerate(self.paths):
            if wanted == "all" or (wanted == "large" and self.is_large(index)):
                file = self.root / (self.files or self.paths)[index]
                boxes = find_no_data(file, self.reading)
                if boxes:
                    found[path] = boxes
        return found

    def batch(self, indices: Sequence[int]) -> Images:
        """Images of one size as a network is given them: (B, H, W, channels), as `stack_images`.

        Raises:
            SegalError: As `read` does.
        """
        return stack_images([self.read(index) for index in indices])

    def pixels(self) -> "ImagePool":
        """The pool whose batches are pixels."""
        return self

    def subset(self, indices: Iterable[int]) -> Self:
        """The pool of some of the images, in the order given."""
        chosen = list(indices)
        return replace(
            self,
            paths=tuple(self.paths[i] for i in chosen),
            infos=tuple(self.infos[i] for i in chosen),
            stats=tuple(self.stats[i] for i in chosen),
            files=tuple(self.files[i] for i in chosen) if self.files else (),
        )

    def notes(self, labelled: bool = False) -> list[str]:
        """What a user should know of the files, though nothing is wrong with them.

        Args:
            labelled: Whether the images have labels, which must be turned as they are.
        """
        notes = [f"{self.root}: left out {counted(self.other)}."] if self.other else []
        for alike in lookalikes(self.paths):
            notes.append(
                f"{self.root}: {len(alike)} images have names that look alike and differ in their "
                f"Unicode form only: {', '.join(map(escaped, alike))}."
            )
        unseen = [p for p, i in zip(self.paths, self.infos, strict=True) if i.turned_unseen]
        if labelled and unseen:
            notes.append(
                f"{self.root}: {len(unseen)} images are turned or mirrored by their EXIF "
                f"orientation so that their size does not tell ({named(unseen)}); look whether "
                "their labels are turned as they are."
            )
        return notes

    @property
    def turned(self) -> int:
        """Images that their EXIF orientation turns or mirrors, as far as it is known."""
        return sum(info.orientation > 1 for info in self.infos)


def open_pool(
    root: Path,
    paths: Sequence[str] | None = None,
    *,
    skip_unreadable: bool = False,
    known: Mapping[str, tuple[int, int, ImageInfo]] | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    reading: Reading = RGB,
    follow_links: bool = False,
) -> ImagePool:
    """Finds and inspects the images below a folder.

    Args:
        root: The folder.
        paths: Only these, relative to the root; all by default.
        skip_unreadable: Leave out what cannot be read, and list it in `skipped`.
        known: Path to (bytes, mtime in ns, info) of an earlier inspection; an image is not read
            again while its bytes and mtime are the same.
        workers: Threads that inspect.
        progress: Called with (images done, all images) after each.
        reading: Which bands of which page, and what values become 0 and 1.
        follow_links: Whether links may lead out of the folder.

    Raises:
        SegalError: As `find_images` does, and for unreadable images, all of them in one error; with
            `skip_unreadable` only if no image is left.
    """
    reading.check()
    other: list[str] = []
    if paths is None:
        found, refused, other = walk_images(root, follow_links)
    else:
        found, refused = check_images(root, paths, follow_links)
    if not found and not refused:
        raise no_image(root, other)

    def inspect(path: str) -> _Inspected | SegalError:
        try:
            return _inspect(root / path, reading)
        except SegalError as error:
            return error

    images: list[tuple[str, Stat, ImageInfo]] = []
    recalled = _recalled(root, found, known or {})
    unknown = (path for path in found if path not in recalled)
    with closing(prefetch(inspect, unknown, workers)) as results:
        for done, path in enumerate(found, start=1):
            result = recalled.get(path) or next(results)
            if isinstance(result, SegalError):
                refused.append(result)
            else:
                images.append((path, *result))
            if progress is not None:
                progress(done, len(found))
    if refused and not (skip_unreadable and images):
        raise _unreadable(root, refused, len(refused) + len(images))
    return ImagePool(
        root=root,
        paths=tuple(path for path, _, _ in images),
        infos=tuple(info for _, _, info in images),
        stats=tuple(stats for _, stats, _ in images),
        skipped=tuple(_reason(error) for error in refused),
        reading=reading,
        other=tuple(other),
    )


def first_shape(
    root: Path, paths: Sequence[str] | None = None, reading: Reading = RGB
) -> tuple[int, int] | None:
    """(height, width) of the first image that can be read; None where none can.

    Args:
        root: The folder.
        paths: As `open_pool` takes them.
        reading: Likewise.

    Raises:
        SegalError: As `find_images` does.
    """
    for path in find_images(root) if paths is None else paths:
        try:
            return open_pool(root, [path], reading=reading).shape(0)
        except SegalError:
            continue  # opening the pool says so, or skips it
    return None


def _recalled(
    root: Path, paths: Sequence[str], known: Mapping[str, tuple[int, int, ImageInfo]]
) -> dict[str, _Inspected]:
    """What is known of images whose bytes and mtime are as they were."""
    found, below = {}, os.path.join(root, "")  # noqa: PTH118 (there may be millions)
    for path in paths:
        size, mtime, info = known.get(path, (None, None, None))
        if info is not None:
            with suppress(OSError):  # opening it says what is wrong
                stat = _stat(below + path)
                if stat == (size, mtime):
                    found[path] = stat, info
    return found


def _inspect(path: Path, reading: Reading) -> _Inspected:
    try:
        stat = _stat(os.fspath(path))  # before the file is read: a later change is then seen
    except OSError as error:
        raise SegalError(f"{path}: cannot be read", got=error.strerror) from error
    return stat, inspect_image(path, reading)


def _stat(path: str) -> Stat:
    """Bytes and mtime of an image's file; of a TIFF together with those of a mask beside it."""
    status = os.stat(path)  # noqa: PTH116 (there may be millions)
    size, changed = status.st_size, status.st_mtime_ns
    if path.lower().endswith((".tif", ".tiff")):
        with suppress(FileNotFoundError):
            status = os.stat(path + MASK_SUFFIX)  # noqa: PTH116
            size, changed = size + status.st_size, changed + status.st_mtime_ns
    return size, changed


def _reason(error: SegalError) -> str:
    return error.problem if error.got is None else f"{error.problem} (got {error.got})"


def _unreadable(root: Path, refused: Sequence[SegalError], total: int) -> SegalError:
    if total == 1:
        return refused[0]
    lines = [f"\n  {_reason(error)}" for error in refused[:MAX_NAMED]]
    if len(refused) > MAX_NAMED:
        lines.append(f"\n  and {len(refused) - MAX_NAMED} more")
    remedies = [*dict.fromkeys(error.remedy for error in refused if error.remedy)]
    told = "; ".join(remedies) if len(remedies) <= _REMEDIES else ""
    return SegalError(
        f"{root}: {len(refused)} of {total} images cannot be read:" + "".join(lines),
        expected="images that can be read, inside the folder",
        got=f"{len(refused)} that cannot",
        remedy=(told or "mend or remove them")
        + ("" if len(refused) == total else ", or go on without them: --skip-unreadable"),
    )
