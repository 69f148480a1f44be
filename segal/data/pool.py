"""A pool of images that knows nothing of labels."""

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from numpy.typing import NDArray

from segal.data.images import ImageInfo, inspect_image, read_image
from segal.data.prefetch import prefetch
from segal.errors import SegalError, raise_all

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_NAMED = 20

Stat = tuple[int, int]
Progress = Callable[[int, int], None]


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
        value_range: As `read_image` takes it.
    """

    root: Path
    paths: tuple[str, ...]
    infos: tuple[ImageInfo, ...]
    stats: tuple[Stat, ...]
    skipped: tuple[str, ...] = ()
    value_range: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of an image, after EXIF orientation."""
        info = self.infos[index]
        return info.height, info.width

    def read(self, index: int) -> NDArray[Any]:
        """Reads an image as `read_image` does: (H, W, 3) RGB, uint8 or float32 in [0, 1].

        Raises:
            SegalError: If it cannot be read, or its size is not the inspected one any more.
        """
        path = self.root / self.paths[index]
        image = read_image(path, self.value_range)
        if image.shape[:2] != self.size(index):
            height, width = self.size(index)
            raise SegalError(
                f"{path}: the image has changed since it was inspected",
                expected=f"{height} x {width} (height x width)",
                got=f"{image.shape[0]} x {image.shape[1]}",
                remedy="leave the files alone during a run, then run the command again",
            )
        return image

    def subset(self, indices: Iterable[int]) -> "ImagePool":
        """The pool of some of the images, in the order given."""
        chosen = list(indices)
        return replace(
            self,
            paths=tuple(self.paths[i] for i in chosen),
            infos=tuple(self.infos[i] for i in chosen),
            stats=tuple(self.stats[i] for i in chosen),
        )


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
    paths, refused = _walk(root)
    raise_all(shortened(refused))
    if not paths:
        raise _no_image(root)
    return paths


def open_pool(
    root: Path,
    paths: Sequence[str] | None = None,
    *,
    skip_unreadable: bool = False,
    known: Mapping[str, tuple[int, int, ImageInfo]] | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    value_range: tuple[float, float] | None = None,
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
        value_range: Lowest and highest value of 16-bit images.

    Raises:
        SegalError: As `find_images` does, and for unreadable images, all of them in one error; with
            `skip_unreadable` only if no image is left.
    """
    if value_range is not None and not value_range[0] < value_range[1]:
        raise SegalError(
            "the value range of 16-bit images is empty",
            expected="a lowest value below the highest",
            got=f"{value_range[0]}, {value_range[1]}",
            remedy="give the values that stand for black and white, such as 0,4095",
        )
    found, refused = _walk(root) if paths is None else _given(root, paths)
    if not found and not refused:
        raise _no_image(root)

    def inspect(path: str) -> tuple[Stat, ImageInfo] | SegalError:
        try:
            return _inspect(root / path, (known or {}).get(path))
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
        value_range=value_range,
    )


def _inspect(path: Path, known: tuple[int, int, ImageInfo] | None) -> tuple[Stat, ImageInfo]:
    try:
        status = path.stat()  # before the file is read: a later change is then seen
    except OSError as error:
        raise SegalError(f"{path}: cannot be read", got=error.strerror) from error
    stats = (status.st_size, status.st_mtime_ns)
    if known is not None and known[:2] == stats:
        return stats, known[2]
    return stats, inspect_image(path)


def _walk(root: Path) -> tuple[list[str], list[SegalError]]:
    """All images, sorted, and what was refused."""
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
    return paths, walk.refused


class _Walk:
    def __init__(self, root: Path) -> None:
        self.root, self.real_root = root, real_path(root)
        self.paths: list[str] = []
        self.links: list[str] = []
        self.refused: list[SegalError] = []
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
        if entry.name.startswith(".") or not (is_image or is_folder):
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
        raise SegalError(
            f"{root / path}: cannot be read",
            expected="a file that is there and may be read",
            got=error.strerror,
            remedy="check the path, or remove the link if it leads nowhere",
        ) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading a pipe would wait for ever
        raise SegalError(
            f"{root / path}: this is no plain file",
            expected="an image",
            got=stat.filemode(mode),
            remedy="remove it",
        )


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


def _no_image(root: Path) -> SegalError:
    return SegalError(
        f"{root}: no image in this folder",
        expected=f"files that end with {', '.join(SUFFIXES)}, here or in folders below",
        got="none",
        remedy="check the path",
    )


def _reason(error: SegalError) -> str:
    return error.problem if error.got is None else f"{error.problem} (got {error.got})"


def _unreadable(root: Path, refused: Sequence[SegalError], total: int) -> SegalError:
    if total == 1:
        return refused[0]
    lines = [f"\n  {_reason(error)}" for error in refused[:MAX_NAMED]]
    if len(refused) > MAX_NAMED:
        lines.append(f"\n  and {len(refused) - MAX_NAMED} more")
    return SegalError(
        f"{root}: {len(refused)} of {total} images cannot be read:" + "".join(lines),
        expected="images that can be read, inside the folder",
        got=f"{len(refused)} that cannot",
        remedy="mend or remove them"
        + ("" if len(refused) == total else ", or go on without them: --skip-unreadable"),
    )


def shortened(errors: list[SegalError]) -> list[SegalError]:
    """The first mistakes, and how many more there are."""
    if len(errors) <= MAX_NAMED:
        return errors
    return [*errors[:MAX_NAMED], SegalError(f"and {len(errors) - MAX_NAMED} more like these")]
