"""Writing so that nothing is lost: temporary file, sync, rename, sync of the folder."""

import ctypes
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segal.errors import SegalError

_REMEDIES = {
    errno.ENOSPC: "free some space on that disk, then run the same command again",
    errno.EDQUOT: "free some of your quota, then run the same command again",
    errno.EROFS: "choose a folder that can be written, with --out",
    errno.EACCES: "choose a folder that you may write to, with --out",
    errno.EPERM: "choose a folder that you may write to, with --out",
    errno.ENOTDIR: "choose a folder whose parents are folders, with --out",
    errno.ENAMETOOLONG: "choose a shorter name",
}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def is_there(path: Path) -> bool:
    """Whether there is a file or folder; also of a name that no file can have."""
    try:
        path.stat()
    except (OSError, ValueError):  # `Path.exists` raises both: a name that is too long, a NUL
        return False
    return True


def write_error(path: Path, error: OSError) -> SegalError:
    """The error to raise where writing `path` failed."""
    return SegalError(
        f"{path}: cannot be written",
        expected="a folder that can be written, with room on its disk",
        got=os.strerror(error.errno) if error.errno else str(error),
        remedy=_REMEDIES.get(error.errno or 0, "look at the folder, then run the command again"),
    )


def read_error(path: Path, error: OSError, expected: str) -> SegalError:
    """The error to raise where reading `path` failed."""
    return SegalError(
        f"{path}: cannot be read",
        expected=expected,
        got=error.strerror or str(error),
        remedy="check the path, and that you may read it",
    )


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal digits; of a folder, of the files in it and their names.

    Raises:
        SegalError: If it cannot be read.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        named = "".join(f"{file.name}\0{file_digest(file)}\n" for file in files)
        return hashlib.sha256(named.encode()).hexdigest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise read_error(path, error, "a file") from error


def sync(path: Path) -> None:
    """Asks the disk to keep a file's bytes or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """Gives a temporary path beside `path`, which takes its place when the block ends well.

    The block makes a file or a folder there. When it raises, what it wrote is removed and `path`
    is as it was; when the process is killed, `path` is as it was or new as a whole. One process
    at a time may replace a path.

    Args:
        path: What to replace.
        synced: Whether the disk is asked to keep all of it. Without, a power cut may leave a part,
            which whoever reads it has to find out by digests.

    Raises:
        SegalError: If the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)
        yield temporary
        if synced:
            for file in temporary.rglob("*") if temporary.is_dir() else ():
                sync(file)
            sync(temporary)
        _take_place(temporary, path)
        if synced:
            sync(path.parent)
    except OSError as error:
        _try_to_remove(temporary)
        if not _concerns(error, path.parent):  # such as an input that the block read
            raise
        raise write_error(path, error) from error
    except BaseException:
        _try_to_remove(temporary)
        raise


def remove(path: Path) -> None:
    """Removes a file or a whole folder, if it is there; a link is removed, never followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a whole file, or leaves the old one."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """Writes a value as indented JSON, or leaves the old file."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def _concerns(error: OSError, folder: Path) -> bool:
    """Whether an error is about `folder` or what is in it; a full disk's error names no path."""
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return True
    named = Path(os.fsdecode(error.filename)).absolute()
    return named.is_relative_to(folder.absolute()) or folder.absolute().is_relative_to(named)


def _try_to_remove(path: Path) -> None:
    with suppress(OSError):
        remove(path)


def _take_place(new: Path, path: Path) -> None:
    """Renames `new` to `path`; a folder that is there goes, together with all that is in it."""
    if not (path.exists() and (path.is_dir() or new.is_dir())):  # the system replaces a file
        new.replace(path)
    elif _exchange(new, path):
        remove(new)
    else:  # a kill between the next two lines leaves neither; the ledger then wants it done again
        remove(path)
        new.replace(path)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step (Linux), so that a folder is never missing; False if it can't."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
