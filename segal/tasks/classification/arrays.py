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


def open_array(path: Path, member: str | None = None) -> NDArray[Any]:
    """Opens an array to be read.

    Args:
        path: An `.npy` file, or an `.npz` archive.
        member: Name of the array in the archive.

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
                shape, order, dtype = _header(file)
                start = file.tell()
            return _mapped(path, start, shape, order, dtype)
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{member}.npy")
            with archive.open(info) as entry:
                shape, order, dtype = _header(entry)
                header = entry.tell()
            size = math.prod(shape) * dtype.itemsize
            if info.file_size != header + size:
                raise ValueError(f"{info.file_size - header} bytes for an array of {size}")
            if info.compress_type == zipfile.ZIP_STORED:
                return _mapped(path, _data_start(path, info) + header, shape, order, dtype)
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


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    """Shape, whether columns come first, and dtype; the file is then at the data."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, order, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, order, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"format version {version}")
    if dtype.hasobject:
        raise SegalError(
            f"{getattr(file, 'name', 'array')}: an array of Python objects, which is not read",
            expected="an array of numbers or of strings of fixed length",
            got=f"dtype {dtype}",
            remedy="save it anew with .astype(str) or .astype(np.float32)",
        )
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {shape}")
    return shape, order, dtype


def _mapped(
    path: Path, start: int, shape: tuple[int, ...], order: bool, dtype: "np.dtype[Any]"
) -> NDArray[Any]:
    size = math.prod(shape) * dtype.itemsize
    there = path.stat().st_size - start
    if size > there:
        raise ValueError(f"{there} bytes for an array of {size}")
    if not size:
        return np.empty(shape, dtype)
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
