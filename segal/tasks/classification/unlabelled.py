"""Opens images to choose from: a folder, a table of paths, an array of pictures or features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segal.data.image_file import RGB, Reading
from segal.data.image_list import images_at
from segal.data.pool import Progress
from segal.data.pool import first_shape as first_file_shape
from segal.errors import SegalError
from segal.system.files import is_there
from segal.tasks.classification import tables
from segal.tasks.classification.arrays import member_names, open_array
from segal.tasks.classification.pools import Known, WholeImagePool, as_rows, open_files, open_rows
from segal.tasks.options import InputShape


def open_pool(
    source: Path,
    *,
    reading: Reading = RGB,
    skip_unreadable: bool = False,
    known: Known | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    follow_links: bool = False,
) -> WholeImagePool:
    """Opens images that have no labels, or whose labels are not looked at.

    Args:
        source: A folder of images; a CSV or a `.txt` file that lists paths, or `FILE.csv:SPLIT`; an
            `.npy` file of pictures or features; an `.npz` archive, or `FILE.npz:ARRAY`.
        reading: As in `open_split`, and so are the rest.
        skip_unreadable: Leave out what cannot be read.
        known: Earlier inspections.
        workers: Threads that inspect images.
        progress: Called with (images done, all images).
        follow_links: Whether links may lead out of the folder.

    Raises:
        SegalError: If it is none of these, or cannot be read.
    """
    options: dict[str, Any] = {
        "reading": reading,
        "skip_unreadable": skip_unreadable,
        "known": known,
        "workers": workers,
        "progress": progress,
    }
    found = _found(source)
    if isinstance(found, _Rows):
        return open_rows(found.file, found.member, **options)
    return open_files(found.root, found.paths, follow_links=follow_links, **options)


def first_shape(source: Path, reading: Reading = RGB) -> InputShape | None:
    """As `Task.first_shape`, of what `open_pool` opens."""
    found = _found(source)
    if isinstance(found, _Files):
        shape = first_file_shape(found.root, found.paths, reading)
        return None if shape is None else InputShape(*shape)
    file, member = found
    place = file if member is None else file / member
    array = as_rows(place, open_array(file, member, values=False))
    if array.ndim == 2:
        return InputShape(1, 1, array.shape[1])
    return InputShape(*array.shape[1:3])


class _Rows(NamedTuple):
    """Rows of an array; the member is that of an archive."""

    file: Path
    member: str | None


class _Files(NamedTuple):
    """Image files: these paths, or all below the root."""

    root: Path
    paths: Sequence[str] | None


def _found(source: Path) -> _Rows | _Files:
    """Where the images are.

    Raises:
        SegalError: If it is neither, or which part of a file is meant cannot be told.
    """
    file, part = _parted(source)
    suffix = file.suffix.lower() if file.is_file() else ""
    if suffix == ".npy":
        return _Rows(file, None)
    if suffix == ".npz":
        return _Rows(file, part or _only_array(file))
    if suffix == ".csv":
        table = tables.read_table(file, None)
        if part:
            if part not in (table.splits or ()):
                raise _no_part(file, part, sorted(set(table.splits or ())), "split")
            table = table.part(part)
        return _Files(file.parent, table.paths)
    if suffix == ".txt":
        return _Files(*images_at(file))
    if suffix:
        raise SegalError(
            f"{source}: no pool of images",
            expected="a folder, a CSV, a .txt, an .npy or an .npz file",
            got=f"a {suffix} file",
            remedy="give the folder that the images are in",
        )
    return _Files(file, None)


def _parted(source: Path) -> tuple[Path, str]:
    """`FILE:PART` in two, where there is such a file and none of the whole name."""
    before, colon, after = str(source).rpartition(":")
    is_parted = colon and not is_there(source) and before.lower().endswith((".npz", ".csv"))
    return (Path(before), after) if is_parted and Path(before).is_file() else (source, "")


def _only_array(file: Path) -> str:
    """The one array of an archive that is no list of labels or classes."""
    names = member_names(file)
    arrays = [name for name in names if _is_rows(file, name)]
    if len(arrays) != 1:
        raise _no_part(
            file, "none chosen" if arrays else "none of images", arrays or names, "array"
        )
    return arrays[0]


def _is_rows(file: Path, name: str) -> bool:
    try:
        as_rows(file, open_array(file, name, values=False))
    except SegalError:
        return False
    return True


def _no_part(file: Path, got: str, there: Sequence[str], kind: str) -> SegalError:
    return SegalError(
        f"{file}: which {kind} is meant cannot be told",
        expected=f"{file.name}:{kind.upper()}" + (f", of {', '.join(there[:20])}" if there else ""),
        got=got,
        remedy=f"write it after the file's name, such as {file.name}:{there[0]}"
        if there
        else f"check the {kind}s of the file",
    )
