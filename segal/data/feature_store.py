"""Outputs of frozen parts of networks, kept on disk image by image for all who need them again.

A file holds what one frozen part made of one image, as safetensors, which are read by memory map.
It lies in a folder named by the digest of the frozen part and by the type of its numbers, and is
named by the digest of the image: what other weights made of it, or these of another image, is
never found. Several processes may read and fill a store at once.
"""

import fcntl
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from segal.errors import SegalError
from segal.system.console import tell
from segal.system.files import is_there, read_error, sync, write_json
from segal.system.tensor_files import save_tensors

Precision = Literal["float32", "float16"]

STORE_FILE = "segal-store.json"
_MADE = {"segal": "feature store", "version": 1}
_LOCK, _BYTES, _SUFFIX, _TEMPORARY = ".lock", ".bytes", ".safetensors", ".tmp"
_TYPES = {"float32": torch.float32, "float16": torch.float16}
_STALE = 3600.0  # seconds after which what a killed process began to write is removed
_LEFT = 0.95  # of the limit, that is left when the store has been full: not every file evicts
_SHOWN = 3


@dataclass(frozen=True)
class Contents:
    """What a store holds.

    Attributes:
        files: Images, once for each frozen part that they are kept of.
        bytes: Of all files.
        parts: Frozen parts.
    """

    files: int
    bytes: int
    parts: int


class FeatureStore:
    """A store, open for this process; any of its threads may use it.

    Args:
        folder: Made where it is not there.
        limit: Bytes of its files at most: what was used least lately goes first.
        precision: Of the numbers as kept; `float16` takes half the room.

    Attributes:
        notes: What the user was told: of files that are not used, and that nothing can be kept.

    Raises:
        SegalError: If the folder holds something else, or cannot be made.
    """

    def __init__(self, folder: Path, limit: int, precision: Precision = "float32") -> None:
        self.folder, self.limit, self.precision = folder, limit, precision
        self.notes: list[str] = []
        self._closed = False
        self._mutex = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            others = sorted(path.name for path in folder.iterdir() if path.name != _LOCK)
            if others and not is_store(folder) and f".{STORE_FILE}.tmp" not in others:
                raise _no_store(folder, f"a folder that holds {', '.join(others[:_SHOWN])}")
            if not is_store(folder):  # one that is there may be read where it cannot be written
                with self._locked():
                    write_json(folder / STORE_FILE, _MADE)
        except OSError as error:
            raise SegalError(
                f"store.folder: {folder} cannot be made a store",
                expected="a folder that can be written, with room on its disk",
                got=os.strerror(error.errno) if error.errno else str(error),
                remedy="give another folder, or leave the store out",
            ) from error
        _check_made(folder)

    def get(self, part: str, image: str) -> list[Tensor] | None:
        """What a frozen part made of an image; None where it is not kept.

        Args:
            part: Digest of the frozen part.
            image: Digest of the image, as it was read.

        Returns:
            Its tensors, of float32.
        """
        path = self._path(part, image)
        try:
            with safe_open(path, framework="pt") as file:
                said = file.metadata() or {}
                if (said.get("part"), said.get("image")) != (part, image):
                    raise SafetensorError(
                        "what other weights made, or what was made of another image"
                    )
                tensors = [file.get_tensor(str(number)) for number in range(len(file.keys()))]
            with suppress(OSError):  # another user's, or not to be written
                os.utime(path)
        except OSError:  # not there, or evicted right now
            return None
        except SafetensorError as error:
            with self._mutex:
                self._tell(f"{path} is not used, and made again: {error}"[:500])
            with suppress(OSError):
                path.unlink()
            return None
        return [tensor.float() for tensor in tensors]

    def put(self, part: str, image: str, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Keeps what a frozen part made of an image, if there is room; it is then there as a whole.

        A disk that is full, or that may not be written, is told of once; from then on nothing is
        kept by this process.

        Args:
            part: As of `get`.
            image: Likewise.
            tensors: float32, on the CPU.

        Returns:
            The tensors as `get` will give them: rounded, where they are kept in float16.

        Raises:
            SegalError: For numbers that the store's precision does not have.
        """
        kept = [tensor.to(_TYPES[self.precision]).contiguous() for tensor in tensors]
        if self.precision != "float32" and not all(one.isfinite().all() for one in kept):
            raise SegalError(
                "store.precision: float16 does not hold what the frozen layers give",
                expected="numbers of at most 65504",
                got=f"up to {max(float(one.abs().max()) for one in tensors):.4g}",
                remedy="give store.precision=float32",
            )
        with self._mutex:
            if not self._closed:
                try:
                    self._write(self._path(part, image), part, image, kept)
                except OSError as error:
                    self._refuse(os.strerror(error.errno) if error.errno else str(error))
        return [one.float() for one in kept]

    def forget(self, images: Iterable[str]) -> int:
        """Removes what is kept of images, by any frozen part and in any precision.

        Args:
            images: Digests, as of `get`.

        Returns:
            How many files there were.
        """
        names = {f"{image[:40]}{_SUFFIX}" for image in images}
        with self._locked():
            files = [path for path, _, _ in self._files() if path.name in names]
            for path in files:
                path.unlink(missing_ok=True)
        return len(files)

    def contents(self) -> Contents:
        """What the store holds by now."""
        files = list(self._files())
        parts = {path.parent for path, _, _ in files}
        return Contents(len(files), sum(size for _, size, _ in files), len(parts))

    def _path(self, part: str, image: str) -> Path:
        return self.folder / f"{part[:32]}-{self.precision}" / f"{image[:40]}{_SUFFIX}"

    def _refuse(self, why: str) -> None:
        self._closed = True
        self._tell(
            f"The store {self.folder} takes nothing more ({why}); the work goes on without it."
        )

    def _tell(self, note: str) -> None:
        if len(self.notes) < _SHOWN:
            self.notes.append(note)
            tell(note)

    def _write(self, path: Path, part: str, image: str, tensors: Sequence[Tensor]) -> None:
        if path.exists():  # another process was faster
            return
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.stem}-{secrets.token_hex(8)}{_TEMPORARY}")
        said = {"part": part, "image": image, "sha256": _digest(tensors)}
        try:
            save_tensors({str(n): one for n, one in enumerate(tensors)}, temporary, said)
            sync(temporary)
            size = temporary.stat().st_size
            if size > self.limit:
                self._refuse(f"its limit is {self.limit} bytes, and an image takes {size}")
                return
            with self._locked():
                self._make_room(size)
                temporary.replace(path)
            sync(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """While it lasts, no other process changes which files there are."""
        descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_room(self, size: int) -> None:
        """Counts a new file in, and removes what was used least lately where there are too many."""
        count = self.folder / _BYTES
        try:
            total = int(count.read_text())
        except (OSError, ValueError):
            total = self.limit  # unknown: they are counted
        if total + size > self.limit:
            files = sorted(self._files(), key=lambda file: file[2])
            total = sum(one for _, one, _ in files)
            room = self.limit if total + size <= self.limit else int(_LEFT * self.limit)
            for path, one, _ in files:
                if total + size <= room or total == 0:
                    break
                path.unlink(missing_ok=True)
                total -= one
        count.write_text(str(total + size))

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        """Each file with its bytes and when it was used last; leftovers of killed writers go."""
        for folder in self.folder.iterdir():
            if not folder.is_dir() or folder.is_symlink():
                continue
            for entry in os.scandir(folder):
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if entry.name.endswith(_SUFFIX):
                        yield Path(entry.path), status.st_size, status.st_mtime
                    elif entry.name.endswith(_TEMPORARY) and _is_stale(status.st_mtime):
                        Path(entry.path).unlink()


def _is_stale(written: float) -> bool:
    return time.time() - written > _STALE


def is_store(folder: Path) -> bool:
    """Whether a folder is a store."""
    return is_there(folder / STORE_FILE)


def held_bytes(folder: Path) -> int:
    """Bytes of a store's files; none where there is no store."""
    total = 0
    for path in folder.glob(f"*/*{_SUFFIX}"):
        with suppress(FileNotFoundError):  # by now
            total += path.stat().st_size
    return total


def check_store(folder: Path) -> Contents:
    """Reads all of a store.

    Returns:
        What it holds.

    Raises:
        SegalError: If it is no store, or files are damaged.
    """
    _check_made(folder)
    damaged, files, size, parts = list[str](), 0, 0, set[str]()
    for path in sorted(folder.glob(f"*/*{_SUFFIX}")):
        files, size = files + 1, size + path.stat().st_size
        parts.add(path.parent.name)
        if why := _damage(path):
            damaged.append(f"{path.relative_to(folder)}: {why}")
    if damaged:
        more = f" and {len(damaged) - _SHOWN} more" if len(damaged) > _SHOWN else ""
        raise SegalError(
            f"{folder}: {len(damaged)} files of the store are not as they were written",
            expected="files that hold what their digests say",
            got="; ".join(damaged[:_SHOWN]) + more,
            remedy="remove these files, or the whole store: it is filled again where it is needed",
        )
    return Contents(files, size, len(parts))


def _damage(path: Path) -> str | None:
    """What is wrong with a file; None where nothing is."""
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            tensors = [file.get_tensor(str(number)) for number in range(len(file.keys()))]
    except (OSError, SafetensorError) as error:
        return str(error).partition("\n")[0][:200]
    if path.stem != said.get("image", "")[:40]:
        return "the file of another image"
    if path.parent.name.partition("-")[0] != said.get("part", "")[:32]:
        return "the file of other weights"
    return None if said.get("sha256") == _digest(tensors) else "its numbers have changed"


def _digest(tensors: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_made(folder: Path) -> None:
    try:
        made = json.loads((folder / STORE_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise read_error(folder / STORE_FILE, error, "what marks a store of segal") from error
    except (ValueError, RecursionError):
        made = None
    if made != _MADE:
        raise _no_store(folder, f"another {STORE_FILE}")


def _no_store(folder: Path, got: str) -> SegalError:
    return SegalError(
        f"store.folder: {folder} is not a store",
        expected="a folder that is not there yet, that is empty, or a store that segal made",
        got=got,
        remedy="give another folder",
    )
