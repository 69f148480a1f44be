"""A scan in blocks of images, so that what is measured stays measured, whoever is killed.

The pool alone says where a block begins and ends: not the batch size, and not how many processes
share the work. A block is a folder of candidate tables that appears as a whole. Its manifest says
which scan it is of, and has the digest of every file: what is cut off or damaged, also by a power
cut, is found and measured again. So nothing waits for the disk before the tables are whole.
"""

import fcntl
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segal.candidates.table import join_tables
from segal.errors import SegalError
from segal.system.files import file_digest, remove, replacing, write_error, write_json

__all__ = ["NOTES_FILE", "Blocks", "divide", "numbered"]

NOTES_FILE = "notes.json"
"""Beside the tables, where there is something to say of the pass."""
_MANIFEST, _LOCK = "block.json", ".lock"
_FEW, _LARGE = 8, 64 * 2**20
"""Images, or pixels, that are never divided: what is lost with a process is not worth a folder."""
_LEAST, _MOST = 2**18, 256
"""The least pixels of a block, and about the most blocks."""


def divide(pixels: Sequence[int]) -> list[range]:
    """Divides images into blocks, each of neighbours.

    Images come in parcels of 8, or of 64 megapixels where those are fewer. A block has a power of
    two of parcels, so that the usual batches end where it does; at least 2^18 pixels; and a 256th
    of the pool.

    Args:
        pixels: Of each image.

    Returns:
        The images of each block, in order.

    Examples:
        >>> divide([720 * 960] * 20)
        [range(0, 8), range(8, 16), range(16, 20)]
        >>> divide([20_000 * 20_000] * 3)
        [range(0, 1), range(1, 2), range(2, 3)]
    """
    least = max(_LEAST, sum(pixels) / _MOST)
    blocks: list[range] = []
    start = parcels = images = parcel = block = 0
    for i, size in enumerate(pixels, start=1):
        images, parcel, block = images + 1, parcel + size, block + size
        if images == _FEW or parcel >= _LARGE:
            parcels, images, parcel = parcels + 1, 0, 0
            if block >= least and parcels & (parcels - 1) == 0:
                blocks.append(range(start, i))
                start, parcels, block = i, 0, 0
    if start < len(pixels):
        blocks.append(range(start, len(pixels)))
    return blocks


def numbered(numbers: Iterable[int], names: int = 8) -> str:
    """Numbers for people, neighbours as one.

    Examples:
        >>> numbered([3, 4, 5, 9])
        '3 to 5, 9'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    told = [str(a) if a == b else f"{a} to {b}" for a, b in runs[:names]]
    return ", ".join(told) + (f" and {len(runs) - names} more" if len(runs) > names else "")


@dataclass(frozen=True)
class Blocks:
    """The blocks of a scan on disk, by number.

    Attributes:
        folder: Where they lie.
        scan: What the scan depends on, of what JSON can hold.
        images: Of each block.
    """

    folder: Path
    scan: Mapping[str, object]
    images: Sequence[range]

    def path(self, number: int) -> Path:
        """The folder of a block."""
        return self.folder / f"{number:05d}"

    @contextmanager
    def writing(self, number: int, notes: Sequence[str]) -> Iterator[Path]:
        """Gives the folder that a block's tables are written to; then it takes its place.

        Args:
            number: Of the block.
            notes: What there is to say of the pass.

        Raises:
            SegalError: If the disk is full or the folder cannot be written.
        """
        with replacing(self.path(number), synced=False) as temporary:
            temporary.mkdir()
            yield temporary
            manifest = self._about(number) | {"notes": list(notes), "files": _files(temporary)}
            (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1))

    def lacking(self, numbers: Iterable[int]) -> list[int]:
        """Those that are not there, or not whole, or of another scan; all their files are read."""
        return [number for number in numbers if not self._is_whole(number)]

    def differing(self) -> dict[int, list[str]]:
        """Of blocks in the folder that are of another scan, the keys of `scan` that differ."""
        found = {number: self._manifest(number) for number in self._there()}
        here = self._about(-1)
        return {
            number: _different(manifest, here)
            for number, manifest in found.items()
            if manifest is not None and _different(manifest, here)
        }

    def drop_others(self) -> None:
        """Removes all, if any is of another scan."""
        if self.differing():
            remove(self.folder)

    def refuse_others(self) -> None:
        """Raises a SegalError if any is of another scan."""
        if others := self.differing():
            keys = list(dict.fromkeys(key for found in others.values() for key in found))
            raise SegalError(
                f"{self.folder}: block {numbered(others)} of another scan",
                expected=f"blocks of this scan: of this {', '.join(keys)}",
                got=f"another {', '.join(keys)}",
                remedy="give the configuration, the network and the images that it was made with; "
                "or another folder",
            )

    def check(self) -> None:
        """Raises a SegalError unless all blocks are there, whole, and of this scan."""
        self.refuse_others()
        every = range(len(self.images))
        lacking = self.lacking(every)
        if lacking:
            there = set(self._there())
            lost = [
                f"block {numbered(found)}: {what}"
                for found, what in (
                    ([n for n in lacking if n not in there], "missing"),
                    ([n for n in lacking if n in there], "not as it was written"),
                )
                if found
            ]
            raise SegalError(
                f"{self.folder}: a scan that is not whole",
                expected=f"{len(every)} blocks, from 0 to {len(every) - 1}",
                got="; ".join(lost),
                remedy="run `segal scan` with this --out and the same configuration, which "
                "measures what is lacking",
            )

    @contextmanager
    def claimed(self, share: range) -> Iterator[None]:
        """Holds some blocks for this process; a dead one's are free by themselves.

        Args:
            share: Of the blocks.

        Raises:
            SegalError: If a living process holds any of them, or the folder cannot be written.
        """
        path = self.folder / _LOCK
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise write_error(path, error) from error
        try:
            with self._said_so(share):
                if share:  # a byte of the file stands for a block
                    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, len(share), share.start)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _said_so(self, share: range) -> Iterator[None]:
        try:
            yield
        except (BlockingIOError, PermissionError) as error:  # systems differ in which
            raise SegalError(
                f"{self.folder}: another job is at work on block {numbered(share)}, or some of it",
                expected="each shard given to one job",
                got="a job that holds it",
                remedy="wait until it ends, or give another --shard",
            ) from error
        except OSError as error:
            raise write_error(self.folder / _LOCK, error) from error

    def gather(self, folder: Path) -> None:
        """Writes the tables of all blocks as one, on disk alone.

        Args:
            folder: Appears as a whole.

        Raises:
            SegalError: If the disk is full or the folder cannot be written.
        """
        every = [self.path(number) for number in range(len(self.images))]
        notes: dict[str, None] = {}
        for number in range(len(self.images)):
            told = (self._manifest(number) or {}).get("notes")
            notes |= dict.fromkeys(map(str, told if isinstance(told, list) else ()))
        names = sorted(path.name for path in every[0].iterdir() if path.is_dir())
        with replacing(folder) as temporary:
            for name in names:
                join_tables([path / name for path in every], temporary / name)
            if notes:
                write_json(temporary / NOTES_FILE, list(notes))

    def _about(self, number: int) -> dict[str, Any]:
        ends = [self.images[number].start, self.images[number].stop]
        return {"scan": dict(self.scan), "of": len(self.images), "block": number, "images": ends}

    def _there(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def _manifest(self, number: int) -> dict[str, Any] | None:
        try:
            found = json.loads((self.path(number) / _MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _is_whole(self, number: int) -> bool:
        manifest = self._manifest(number)
        if manifest is None:
            return False
        about = self._about(number)
        if {key: manifest.get(key) for key in about} != about:
            return False
        path, listed = self.path(number), _listed(manifest)
        sizes = {name: found[0] for name, found in listed.items()}
        if not sizes or {name: (path / name).stat().st_size for name in _names(path)} != sizes:
            return False
        return _files(path) == listed


def _different(manifest: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Keys of a scan in which a manifest is of another one."""
    there, own = manifest.get("scan"), here["scan"]
    if not isinstance(there, dict):
        return ["scan"]
    keys = [key for key in {**own, **there} if there.get(key) != own.get(key)]
    return keys or ([] if manifest.get("of") == here["of"] else ["number of blocks"])


def _listed(manifest: Mapping[str, Any]) -> dict[str, list[Any]]:
    files = manifest.get("files")
    good = isinstance(files, dict) and all(isinstance(f, list) and f for f in files.values())
    return files if good and files is not None else {}


def _names(folder: Path) -> Collection[str]:
    """Files of a block, but for its manifest."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())
    return sorted(name for name in found if name != _MANIFEST)


def _files(folder: Path) -> dict[str, list[Any]]:
    """Bytes and sha256 of every file."""
    return {
        name: [(folder / name).stat().st_size, file_digest(folder / name)]
        for name in _names(folder)
    }
