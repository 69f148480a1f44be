"""Finds images below a folder, and checks that paths stay in it."""

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from segal.errors import SegalError, raise_all
from segal.system.unicode_forms import form_only, lookalike

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
"""Mistakes of a kind that are told one by one."""
_SHOWN = 3


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
    paths, refused, other = walk_images(root)
    raise_all(shortened(refused))
    if not paths:
        raise no_image(root, other)
    return paths, other


def walk_images(
    root: Path, follow_links: bool = False
) -> tuple[list[str], list[SegalError], list[str]]:
    """All images, sorted, what was refused, and images of kinds that are not read, sorted."""
    if not root.is_dir():
        raise SegalError(
            f"{root}: no such folder",
            expected="a folder of images",
            got="a file" if root.exists() else "nothing",
            remedy="check the path",
        )
    found = _Walk(root, follow_links)
    found.enter("")
    # Links come last, so that a folder that is also reached by a link is read under its own name.
    while found.links:
        found.enter(found.links.pop(0))
    paths = sorted(found.paths, key=os.fsencode)
    _refuse_same_stems(root, paths)
    return paths, found.refused, sorted(found.other, key=os.fsencode)


class _Walk:
    def __init__(self, root: Path, follow_links: bool) -> None:
        self.root, self.bound = root, None if follow_links else real_path(root)
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
        if entry.is_symlink() or not (is_folder or entry.is_file()):
            check_path(self.root, path, self.bound if entry.is_symlink() else None)
        else:  # the folder's list says what it is
            _check_name(self.root, path)
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
        real_root: The root with its links resolved; None where the path holds no link, or may lead
            anywhere.

    Raises:
        SegalError: If the name is not UTF-8, or the file is missing, no plain file or folder, or
            outside the root.
    """
    _check_name(root, path)
    if real_root is not None:
        pure = PurePosixPath(path)
        real = real_path(root / path)
        if pure.is_absolute() or ".." in pure.parts or not real.is_relative_to(real_root):
            raise SegalError(
                f"{root / path}: this leads out of the folder",
                expected=f"files inside {root}",
                got=f"{real}",
                remedy="replace the link by a copy, or choose a folder that holds both; a pool of "
                "images may be links that lead elsewhere with --follow-links",
            )
    try:
        mode = os.stat(os.path.join(root, path)).st_mode  # noqa: PTH116, PTH118 (many are checked)
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


def _check_name(root: Path, path: str) -> None:
    shown = path
    if not path.isascii():
        shown = os.fsencode(path).decode(errors="backslashreplace")
    if "\0" in path or shown != path:
        raise SegalError(
            f"{root}: a name is not valid UTF-8 or holds NUL",
            expected="names in UTF-8",
            got=repr(shown),
            remedy="rename the file",
        )


def found_as(path: Path) -> str | None:
    """The name beside a missing file that differs from its name in the Unicode form only."""
    if path.name.isascii():
        return None
    try:
        return lookalike(path.name, (entry.name for entry in path.parent.iterdir()))
    except OSError:
        return None


def check_images(
    root: Path, paths: Sequence[str], follow_links: bool
) -> tuple[list[str], list[SegalError]]:
    """Those of some images that may be opened, sorted, and what is wrong with the others."""
    kept, refused = [], []
    bound = None if follow_links else real_path(root)
    canonical = {PurePosixPath(path).as_posix() for path in paths}
    for path in sorted(canonical, key=lambda path: path.encode(errors="surrogateescape")):
        try:
            check_path(root, path, bound)
            kept.append(path)
        except SegalError as error:
            refused.append(error)
    _refuse_same_stems(root, kept)
    return kept, refused


def _refuse_same_stems(root: Path, paths: Sequence[str]) -> None:
    # Paths are compared as text, and as little as need be, since there may be millions.
    stems = [_stem(path) for path in paths]
    repeated = {stem for stem, many in Counter(stems).items() if many > 1}
    by_stem: dict[str, list[str]] = defaultdict(list)
    for stem, path in zip(stems, paths, strict=True):
        if stem in repeated:
            by_stem[stem].append(path)
    errors = [
        SegalError(
            f"{root}: {' and '.join(same)} differ in their suffix only",
            expected="one image a name, since its mask is named after it with .png",
            got=f"{len(same)} images",
            remedy="rename or remove one",
        )
        for same in by_stem.values()
    ]
    held = {path.rpartition("/")[0] for path in paths}
    above = (str(folder) for path in held for folder in (path, *PurePosixPath(path).parents))
    folders = {folder for folder in above if folder.endswith(".png")}
    errors += [
        SegalError(
            f"{root}: the mask of {path} would have the name of the folder {folder}",
            expected="no folder that is named as an image with .png for its suffix",
            got=f"the image {path} beside the folder {folder}",
            remedy="rename one",
        )
        for stem, path in zip(stems, paths, strict=True)
        if folders
        if (folder := f"{stem}.png") in folders
    ]
    raise_all(shortened(errors))


def _stem(path: str) -> str:
    """A path without its suffix."""
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and "/" not in suffix else path


def no_image(root: Path, other: Sequence[str]) -> SegalError:
    """A folder without an image to read; `other` are files of kinds that are not read."""
    return SegalError(
        f"{root}: no image in this folder" + (" that is read" if other else ""),
        expected=f"files that end with {', '.join(SUFFIXES)}, here or in folders below",
        got=counted(other) if other else "none",
        remedy="convert them to PNG, TIFF or JPEG" if other else "check the path",
    )


def counted(other: Sequence[str]) -> str:
    """Files of kinds that are not read, counted by suffix, and some of their names."""
    counts = Counter(next(s for s in OTHER_SUFFIXES if p.lower().endswith(s)) for p in other)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
    files = "file of a kind" if len(other) == 1 else "files of kinds"
    return f"{kinds} ({named(other)}): {files} that segal does not read"


def named(paths: Sequence[str]) -> str:
    """The first of some paths, and how many more there are."""
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more


def shortened(errors: list[SegalError]) -> list[SegalError]:
    """The first mistakes, and how many more there are."""
    if len(errors) <= MAX_NAMED:
        return errors
    return [*errors[:MAX_NAMED], SegalError(f"and {len(errors) - MAX_NAMED} more like these")]
