"""A pool of images that knows nothing of labels."""

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Self

from numpy.typing import NDArray

from segal.candidates.kept import Images
from segal.data.image_file import RGB, Reading
from segal.data.images import ImageInfo, inspect_image, read_image
from segal.data.prefetch import prefetch
from segal.data.transforms import stack_images
from segal.errors import SegalError, raise_all
from segal.system.unicode_forms import escaped, form_only, lookalike, lookalikes

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
OTHER_SUFFIXES = (
    *(".3fr", ".arw", ".avif", ".cr2", ".cr3", ".dcm", ".dds", ".dng", ".ecw", ".exr", ".fit"),
    *(".fits", ".gif", ".hdr", ".heic", ".heif", ".j2k", ".jfif", ".jls", ".jp2", ".jpe", ".jpf"),
    *(".jpx", ".jxl", ".jxr", ".nef", ".nii", ".nii.gz", ".npy", ".nrrd", ".orf", ".pbm", ".pcx"),
    *(".pef", ".pfm", ".pgm", ".pnm", ".ppm", ".psd", ".raf", ".rw2", ".sgi", ".sid"),
    *(".svs", ".tga", ".xcf"),
)
"""Of images that are not read; they are counted and named, so that none is missed unseen."""
MAX_NAMED = 20
_SHOWN = 3

Stat = tuple[int, int]
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
    """

    root: Path
    paths: Sequence[str]
    infos: Sequence[ImageInfo]
    stats: Sequence[Stat]
    skipped: tuple[str, ...] = ()
    reading: Reading = RGB
    other: tuple[str, ...] = ()

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
        path = self.root / self.paths[index]
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
        )

    def notes(self, labelled: bool = False) -> list[str]:
        """What a user should know of the files, though nothing is wrong with them.

        Args:
            labelled: Whether the images have labels, which must be turned as they are.
        """
        notes = [f"{self.root}: left out {_counted(self.other)}."] if self.other else []
        for alike in lookalikes(self.paths):
            notes.append(
                f"{self.root}: {len(alike)} images have names that look alike and differ in their "
                f"Unicode form only: {', '.join(map(escaped, alike))}."
            )
        unseen = [p for p, i in zip(self.paths, self.infos, strict=True) if i.turned_unseen]
        if labelled and unseen:
            notes.append(
                f"{self.root}: {len(unseen)} images are turned or mirrored by their EXIF "
                f"orientation so that their size does not tell ({_named(unseen)}); look whether "
                "their labels are turned as they are."
            )
        return notes

    @property
    def turned(self) -> int:
        """Images that their EXIF orientation turns or mirrors, as far as it is known."""
        return sum(info.orientation > 1 for info in self.infos)


def find_images(root: Path) -> list[str]:
    """Finds all images below a folder; what they hold is not looked at.

    Hidden files and folders are left out. A symbolic link is followed if it stays inside the root;
    a folder is read once, under its own name where it has one that is not hidden.

    Args:
        root: The folder.

    Returns:
        Paths relative to the root, with forward slashes, bytewise sorted.

    Raises:
        SegalError: If there is no such folder or no image in it; if a link leaves the root, a name
            is not UTF-8, two images of one folder differ in their suffix only, or an image's mask
            would have the path of a folder, as that of `a.jpg` beside a folder `a.png`.
    """
    return find_files(root)[0]


def find_files(root: Path) -> tuple[list[str], list[str]]:
    """As `find_images`; also the images of kinds that are not read, sorted alike."""
    paths, refused, other = _walk(root)
    raise_all(shortened(refused))
    if not paths:
        raise _no_image(root, other)
    return paths, other


def open_pool(
    root: Path,
    paths: Sequence[str] | None = None,
    *,
    skip_unreadable: bool = False,
    known: Mapping[str, tuple[int, int, ImageInfo]] | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    reading: Reading = RGB,
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

    Raises:
        SegalError: As `find_images` does, and for unreadable images, all of them in one error; with
            `skip_unreadable` only if no image is left.
    """
    reading.check()
    other: list[str] = []
    if paths is None:
        found, refused, other = _walk(root)
    else:
        found, refused = _given(root, paths)
    if not found and not refused:
        raise _no_image(root, other)

    def inspect(path: str) -> tuple[Stat, ImageInfo] | SegalError:
        try:
            return _inspect(root / path, (known or {}).get(path), reading)
        except SegalError as error:
            return error

    images: list[tuple[str, Stat, ImageInfo]] = []
    results = prefetch(inspect, found, workers)
    for done, (path, result) in enumerate(zip(found, results, strict=True), start=1):
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


def _inspect(
    path: Path, known: tuple[int, int, ImageInfo] | None, reading: Reading
) -> tuple[Stat, ImageInfo]:
    try:
        status = path.stat()  # before the file is read: a later change is then seen
    except OSError as error:
        raise SegalError(f"{path}: cannot be read", got=error.strerror) from error
    stats = (status.st_size, status.st_mtime_ns)
    if known is not None and known[:2] == stats:
        return stats, known[2]
    return stats, inspect_image(path, reading)


def _walk(root: Path) -> tuple[list[str], list[SegalError], list[str]]:
    """All images, sorted, what was refused, and images of kinds that are not read, sorted."""
    if not root.is_dir():
        raise SegalError(
            f"{root}: no such folder",
            expected="a folder of images",
            got="a file" if root.exists() else "nothing",
            remedy="check the path",
        )
    walk = _Walk(root)
    walk.enter("")
    # Links come last, so that a folder that is also reached by a link is read under its own name.
    while walk.links:
        walk.enter(walk.links.pop(0))
    paths = sorted(walk.paths, key=os.fsencode)
    _refuse_same_stems(root, paths)
    return paths, walk.refused, sorted(walk.other, key=os.fsencode)


class _Walk:
    def __init__(self, root: Path) -> None:
        self.root, self.real_root = root, real_path(root)
        self.paths: list[str] = []
        self.links: list[str] = []
        self.refused: list[SegalError] = []
        self.other: list[str] = []
        self._seen: set[tuple[int, int]] = set()

    def enter(self, folder: str) -> None:
        """Reads a folder and all below it; links to folders are kept for later."""
        waiting = [folder]
        while waiting:
            folder = waiting.pop()
            try:
                status = (self.root / folder).stat()
                entries = sorted(os.scandir(self.root / folder), key=lambda e: os.fsencode(e.name))
            except OSError as error:
                self.refused.append(
                    SegalError(
                        f"{self.root / folder}: the folder cannot be read",
                        expected="a folder that may be read",
                        got=error.strerror,
                        remedy="check its permissions",
                    )
                )
                continue
            if (status.st_dev, status.st_ino) in self._seen:
                continue
            self._seen.add((status.st_dev, status.st_ino))
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                try:
                    waiting += self._take(entry, path)
                except SegalError as error:
                    self.refused.append(error)

    def _take(self, entry: "os.DirEntry[str]", path: str) -> list[str]:
        """Takes an image, or returns the folder to read next."""
        is_image = entry.name.lower().endswith(SUFFIXES)
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link that leads back to itself
            is_folder = False
        if entry.name.startswith("."):
            return []
        if not (is_image or is_folder):
            if entry.name.lower().endswith(OTHER_SUFFIXES):
                self.other.append(os.fsencode(path).decode(errors="backslashreplace"))
            return []
        check_path(self.root, path, self.real_root if entry.is_symlink() else None)
        if is_folder and entry.is_symlink():
            self.links.append(path)
        elif is_folder:
            return [path]
        else:
            self.paths.append(path)
        return []


def real_path(path: Path) -> Path:
    """A path with its links resolved; other than `Path.resolve`, it takes links in a circle."""
    return Path(os.path.realpath(path))


def check_path(root: Path, path: str, real_root: Path | None = None) -> None:
    """Checks that a path below a root may be opened.

    Args:
        root: The folder.
        path: Relative to it.
        real_root: The root with its links resolved; None where the path holds no link.

    Raises:
        SegalError: If the name is not UTF-8, or the file is missing, no plain file or folder, or
            outside the root.
    """
    shown = os.fsencode(path).decode(errors="backslashreplace")
    if "\0" in path or shown != path:
        raise SegalError(
            f"{root}: a name is not valid UTF-8 or holds NUL",
            expected="names in UTF-8",
            got=repr(shown),
            remedy="rename the file",
        )
    if real_root is not None:
        pure = PurePosixPath(path)
        real = real_path(root / path)
        if pure.is_absolute() or ".." in pure.parts or not real.is_relative_to(real_root):
            raise SegalError(
                f"{root / path}: this leads out of the folder",
                expected=f"files inside {root}",
                got=f"{real}",
                remedy="replace the link by a copy, or choose a folder that holds both",
            )
    try:
        mode = (root / path).stat().st_mode
    except OSError as error:
        other = found_as(root / path)
        raise SegalError(
            f"{root / path}: cannot be read",
            expected="a file that is there and may be read",
            got=error.strerror,
            remedy=form_only((root / path).name, other)
            if other
            else "check the path, or remove the link if it leads nowhere",
        ) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading a pipe would wait for ever
        raise SegalError(
            f"{root / path}: this is no plain file",
            expected="an image",
            got=stat.filemode(mode),
            remedy="remove it",
        )


def found_as(path: Path) -> str | None:
    """The name beside a missing file that differs from its name in the Unicode form only."""
    if path.name.isascii():
        return None
    try:
        return lookalike(path.name, (entry.name for entry in path.parent.iterdir()))
    except OSError:
        return None


def _given(root: Path, paths: Sequence[str]) -> tuple[list[str], list[SegalError]]:
    kept, refused = [], []
    real_root = real_path(root)
    canonical = {PurePosixPath(path).as_posix() for path in paths}
    for path in sorted(canonical, key=lambda path: path.encode(errors="surrogateescape")):
        try:
            check_path(root, path, real_root)
            kept.append(path)
        except SegalError as error:
            refused.append(error)
    _refuse_same_stems(root, kept)
    return kept, refused


def _refuse_same_stems(root: Path, paths: Sequence[str]) -> None:
    by_stem: dict[PurePosixPath, list[str]] = defaultdict(list)
    for path in paths:
        by_stem[PurePosixPath(path).with_suffix("")].append(path)
    errors = [
        SegalError(
            f"{root}: {' and '.join(same)} differ in their suffix only",
            expected="one image a name, since its mask is named after it with .png",
            got=f"{len(same)} images",
            remedy="rename or remove one",
        )
        for same in by_stem.values()
        if len(same) > 1
    ]
    folders = {folder for path in paths for folder in PurePosixPath(path).parents}
    errors += [
        SegalError(
            f"{root}: the mask of {path} would have the name of the folder {folder}",
            expected="no folder that is named as an image with .png for its suffix",
            got=f"the image {path} beside the folder {folder}",
            remedy="rename one",
        )
        for path in paths
        if (folder := PurePosixPath(path).with_suffix(".png")) in folders
    ]
    raise_all(shortened(errors))


def _no_image(root: Path, other: Sequence[str]) -> SegalError:
    return SegalError(
        f"{root}: no image in this folder" + (" that is read" if other else ""),
        expected=f"files that end with {', '.join(SUFFIXES)}, here or in folders below",
        got=_counted(other) if other else "none",
        remedy="convert them to PNG, TIFF or JPEG" if other else "check the path",
    )


def _counted(other: Sequence[str]) -> str:
    """Files of kinds that are not read, counted by suffix, and some of their names."""
    counts = Counter(next(s for s in OTHER_SUFFIXES if p.lower().endswith(s)) for p in other)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
    files = "file of a kind" if len(other) == 1 else "files of kinds"
    return f"{kinds} ({_named(other)}): {files} that segal does not read"


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more


def _reason(error: SegalError) -> str:
    return error.problem if error.got is None else f"{error.problem} (got {error.got})"


def _unreadable(root: Path, refused: Sequence[SegalError], total: int) -> SegalError:
    if total == 1:
        return refused[0]
    lines = [f"\n  {_reason(error)}" for error in refused[:MAX_NAMED]]
    if len(refused) > MAX_NAMED:
        lines.append(f"\n  and {len(refused) - MAX_NAMED} more")
    remedies = {error.remedy for error in refused}
    common = remedies.pop() if len(remedies) == 1 else None
    return SegalError(
        f"{root}: {len(refused)} of {total} images cannot be read:" + "".join(lines),
        expected="images that can be read, inside the folder",
        got=f"{len(refused)} that cannot",
        remedy=(common or "mend or remove them")
        + ("" if len(refused) == total else ", or go on without them: --skip-unreadable"),
    )


def shortened(errors: list[SegalError]) -> list[SegalError]:
    """The first mistakes, and how many more there are."""
    if len(errors) <= MAX_NAMED:
        return errors
    return [*errors[:MAX_NAMED], SegalError(f"and {len(errors) - MAX_NAMED} more like these")]
