"""Opens arrays of `.npy` and `.npz` files; nothing that they hold is run.

An `.npy` file, and a member that an `.npz` archive stores as it is (`np.savez`), is read by memory
map. A compressed member (`np.savez_compressed`) is read into memory.
"""

import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from segal.errors import SegalError

MAX_COMPRESSED = 2**32
"""Bytes that an array may have that is compressed on disk."""

_EXPECTED = "an array as np.save or np.savez write it"
_LOCAL_HEADER = 30  # bytes of a ZIP entry's fixed part (APPNOTE.TXT, 4.3.7)


def member_names(path: Path) -> list[str]:
    """Names of the arrays of an `.npz` archive, in its order.

    Raises:
        SegalError: If it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise _unreadable(path, error) from error
    return [name.removesuffix(".npy") for name in names]


def open_array(path: Path, member: str | None = None, *, values: bool = True) -> NDArray[Any]:
    """Opens an array to be read.

    Args:
        path: An `.npy` file, or an `.npz` archive.
        member: Name of the array in the archive.
        values: Whether its values are wanted; else what is returned has its shape and its dtype
            only, and takes no memory.

    Returns:
        The array, of any dtype but objects; not to be written to.

    Raises:
        SegalError: If it cannot be read, is damaged, holds Python objects, or is compressed and
            larger than 4 GiB.
    """
    place = path if member is None else path / member
    try:
        if member is None:
            with path.open("rb") as file:
                form = _header(place, file)
                start = file.tell()
            return _mapped(path, start, form) if values else _empty(form)
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{member}.npy")
            with archive.open(info) as entry:
                form = _header(place, entry)
                header = entry.tell()
            size = _size(form)
            if info.file_size != header + size:
                raise ValueError(f"{info.file_size - header} bytes for an array of {size}")
            if not values:
                return _empty(form)
            if info.compress_type == zipfile.ZIP_STORED:
                return _mapped(path, _data_start(path, info) + header, form)
            if size > MAX_COMPRESSED:
                raise SegalError(
                    f"{place}: the array is compressed, and too large to be read as a whole",
                    expected=f"at most {MAX_COMPRESSED:,} bytes",
                    got=f"{size:,} bytes",
                    remedy="save it with np.savez or np.save, which are read piece by piece",
                )
            with archive.open(info) as entry:
                return np.asarray(np.lib.format.read_array(entry, allow_pickle=False))
    except SegalError:
        raise
    except Exception as error:  # damaged archives raise whatever their decoders do
        raise _unreadable(place, error) from error


_Form = tuple[tuple[int, ...], bool, "np.dtype[Any]"]
"""Shape, whether columns come first, and dtype."""


def _header(place: Path, file: IO[bytes]) -> _Form:
    """What the header of an `.npy` file says; the file is then at the data."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, order, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, order, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"format version {version}")
    if dtype.hasobject:
        raise SegalError(
            f"{place}: an array of Python objects, which is not read",
            expected="an array of numbers or of strings of fixed length",
            got=f"dtype {dtype}",
            remedy="save it anew with .astype(str) or .astype(np.float32)",
        )
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {shape}")
    return shape, order, dtype


def _size(form: _Form) -> int:
    """Bytes of the values."""
    return math.prod(form[0]) * form[2].itemsize


def _empty(form: _Form) -> NDArray[Any]:
    return np.broadcast_to(np.empty((), form[2]), form[0])


def _mapped(path: Path, start: int, form: _Form) -> NDArray[Any]:
    there = path.stat().st_size - start
    if _size(form) > there:
        raise ValueError(f"{there} bytes for an array of {_size(form)}")
    shape, order, dtype = form
    if not _size(form):  # which cannot be mapped
        return _empty(form)
    return np.memmap(path, dtype, "r", start, shape, "F" if order else "C")


def _data_start(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a stored entry's bytes begin; lengths in its own header may differ from the list's."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER)
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return info.header_offset + _LOCAL_HEADER + name + extra


def _unreadable(path: Path, error: Exception) -> SegalError:
    got = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return SegalError(
        f"{path}: cannot be read",
        expected=_EXPECTED,
        got=got or type(error).__name__,
        remedy="check the path, or save the array again",
    )
