"""The candidate table: what the scan found out about every candidate, read by memory map.

On disk a table is a folder of `.npy` files, one a column, and `table.json`. It is written row by
row in candidate order, so that neither writing nor reading holds it in memory.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from segal.errors import SegalError

_INDEX_FILE = "table.json"
_VALUES, _EMBEDDINGS = "value", "embedding"
_PIECE = 2**20
"""Bytes of a column that are copied at a time."""
MEAN_FEATURE = "mean_feature"
"""Name of the embedding that CoreSet and UWE go by; see `segal.signals.MeanFeature`."""


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Some rows of a memory-mapped column, read when they are asked for.

    Attributes:
        column: (N, d) as stored.
        rows: (n,) int64 positions that are shown; None: all.
        scale: (n,) what each of them is multiplied by, in float32; None: they are as stored.
    """

    column: NDArray[np.floating]
    rows: NDArray[np.int64] | None
    scale: NDArray[np.float32] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        count = len(self.column) if self.rows is None else len(self.rows)
        return (count, *self.column.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.column.ndim

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """As stored, or float32."""
        return self.column.dtype if self.scale is None else np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | NDArray[np.int64]) -> NDArray[np.floating]:
        column = self.column.view(np.ndarray)  # read with less ado than a memory map
        shown = column[index] if self.rows is None else column[self.rows[index]]
        if self.scale is None:
            return np.asarray(shown)
        # torch converts float16 several times faster.
        scaled = torch.from_numpy(np.array(shown)).float()
        return scaled.mul_(torch.from_numpy(self.scale[index])[:, None]).numpy()

    def part(self, where: slice) -> "StoredRows":
        """Some of these rows that follow one another."""
        scale = None if self.scale is None else self.scale[where]
        if self.rows is None:
            return StoredRows(self.column[where], None, scale)
        return StoredRows(self.column, self.rows[where], scale)

    def scaled(self, scale: NDArray[np.float32]) -> "StoredRows":
        """These rows, multiplied by (n,) factors when they are read."""
        return StoredRows(self.column, self.rows, scale)


@dataclass(frozen=True)
class CandidateTable:
    """Candidates in candidate order: by image path bytewise, then y, then x.

    Attributes:
        images: Paths of the images, relative to the pool's root.
        image: (n,) int32, position in `images`.
        box: (n, 4) int32, half-open boxes (x0, y0, x1, y1) in pixels of the original image.
        pixels: (n,) int64, what a candidate costs: the pixels of it that are not bought yet.
        values: By column, (n,) float64.
        embeddings: By column, (n, d) float32 or float16, memory-mapped.
        rows: (n,) int64, rows of the memory-mapped columns that this view shows; None: all.
    """

    images: tuple[str, ...]
    image: NDArray[np.int32]
    box: NDArray[np.int32]
    pixels: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    embeddings: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.image)

    def embedding(self, column: str) -> NDArray[np.float32]:
        """(n, d) float32 embeddings of this view, in memory."""
        stored = self.embeddings[column]
        shown = stored if self.rows is None else stored[self.rows]
        return np.array(shown, dtype=np.float32)

    def stored(self, column: str) -> StoredRows:
        """(n, d) embeddings of this view as they are stored; none of them is in memory."""
        return StoredRows(self.embeddings[column], self.rows)

    def part(self, where: slice) -> "CandidateTable":
        """Some of the candidates that follow one another, at the same prices."""
        rows = np.arange(len(self))[where]
        return self if len(rows) == len(self) else self.view(rows, self.pixels[where])

    def view(self, rows: NDArray[np.int64], pixels: NDArray[np.int64]) -> "CandidateTable":
        """Some of the candidates, at other prices.

        Args:
            rows: (m,) ascending positions in this table.
            pixels: (m,) price of each.
        """
        return CandidateTable(
            images=self.images,
            image=self.image[rows],
            box=self.box[rows],
            pixels=pixels,
            values={name: column[rows] for name, column in self.values.items()},
            embeddings=self.embeddings,
            rows=rows if self.rows is None else self.rows[rows],
        )

    @classmethod
    def open(cls, folder: Path) -> "CandidateTable":
        """Opens a table that `TableWriter` wrote.

        Raises:
            SegalError: If the folder holds no whole table.
        """
        try:
            index = json.loads((folder / _INDEX_FILE).read_text())
            columns = {
                name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                for name in [
                    "image",
                    "box",
                    *(f"{_VALUES}-{c}" for c in index["values"]),
                    *(f"{_EMBEDDINGS}-{c}" for c in index["embeddings"]),
                ]
            }
        except (OSError, ValueError, KeyError) as error:
            raise SegalError(
                f"{folder}: not a candidate table",
                expected="a folder that a scan wrote",
                got=str(error),
                remedy="run the command again with another --out",
            ) from error
        box = np.array(columns["box"])
        return cls(
            images=tuple(index["images"]),
            image=np.array(columns["image"]),
            box=box,
            pixels=box_pixels(box),
            values={c: np.array(columns[f"{_VALUES}-{c}"]) for c in index["values"]},
            embeddings={c: columns[f"{_EMBEDDINGS}-{c}"] for c in index["embeddings"]},
        )


def box_pixels(box: NDArray[np.int32]) -> NDArray[np.int64]:
    """(n,) pixels of (n, 4) half-open boxes."""
    wide = box.astype(np.int64)
    area: NDArray[np.int64] = (wide[:, 2] - wide[:, 0]) * (wide[:, 3] - wide[:, 1])
    return area


class _ColumnFile:
    """A `.npy` file of known length that is appended to; mapped pages would count as memory."""

    def __init__(self, path: Path, rows: int, trailing: tuple[int, ...], dtype: str) -> None:
        self.dtype, self.left = np.dtype(dtype), rows
        self.file: BinaryIO = path.open("wb")
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (rows, *trailing)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, rows: NDArray[np.generic]) -> None:
        self.left -= len(rows)
        if self.left < 0:
            raise ValueError("more rows than the table was made for")
        self.file.write(np.ascontiguousarray(rows, dtype=self.dtype).tobytes())

    def join(self, path: Path, first: int) -> None:
        """Appends all of another, a piece at a time, with `first` added to what it holds."""
        with path.open("rb") as file:
            shape, dtype = _read_header(file)
            if dtype != self.dtype:
                raise ValueError(f"{path}: {dtype}, not {self.dtype}")
            self.left -= shape[0]
            while piece := file.read(_PIECE):
                self.file.write(
                    (np.frombuffer(piece, dtype) + dtype.type(first)).tobytes() if first else piece
                )

    def close(self) -> None:
        self.file.close()


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of a `.npy` file as `_ColumnFile` writes it."""
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


class TableWriter:
    """Writes a candidate table row by row; use as a context manager.

    Args:
        folder: A folder to make; the caller renames it into place when the table is whole.
        images: Paths of the images.
        rows: Number of candidates.
        embedding_dtype: `float32` or `float16`, for the embeddings as stored.
    """

    def __init__(
        self, folder: Path, images: Sequence[str], rows: int, embedding_dtype: str = "float32"
    ) -> None:
        folder.mkdir(parents=True)
        self.folder, self.images, self.rows = folder, tuple(images), rows
        self.embedding_dtype = embedding_dtype
        self._columns: dict[str, _ColumnFile] = {}
        self._image = self._column("image", (), "<i4")
        self._box = self._column("box", (4,), "<i4")

    def _column(self, name: str, trailing: tuple[int, ...], dtype: str) -> _ColumnFile:
        if name not in self._columns:
            self._columns[name] = _ColumnFile(
                self.folder / f"{name}.npy", self.rows, trailing, dtype
            )
        return self._columns[name]

    def append(
        self,
        images: Sequence[int],
        box: NDArray[np.int32],
        measured: Mapping[str, NDArray[np.floating]],
    ) -> None:
        """Adds the candidates of images that share them.

        Args:
            images: (B,) positions in `images`.
            box: (m, 4) boxes, of each of them.
            measured: By column, (B, m) values or (B, m, d) embeddings; the same columns each time.
        """
        self._image.append(np.repeat(np.asarray(images, np.int32), len(box)))
        self._box.append(np.tile(box, (len(images), 1)))
        for name, rows in measured.items():
            if rows.ndim == 2:
                self._column(f"{_VALUES}-{name}", (), "<f8").append(rows.ravel())
                continue
            dtype = np.dtype(self.embedding_dtype).newbyteorder("<")
            largest = np.abs(rows).max((1, 2), initial=0.0)
            if largest.max(initial=0.0) > np.finfo(dtype).max:
                image = int(largest.argmax())
                raise SegalError(
                    f"{self.images[images[image]]}: {name} does not fit into {dtype.name}",
                    expected=f"values up to {np.finfo(dtype).max:g}",
                    got=f"{largest[image]:g}",
                    remedy="leave embedding_dtype at float32",
                )
            column = self._column(f"{_EMBEDDINGS}-{name}", rows.shape[2:], dtype.str)
            column.append(rows.reshape(-1, rows.shape[2]))

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for column in self._columns.values():
            column.close()
        if kind is not None:
            return
        short = [name for name, column in self._columns.items() if column.left]
        if short:
            raise ValueError(f"fewer rows than the table was made for, in {', '.join(short)}")
        index: dict[str, object] = {"images": list(self.images), "rows": self.rows}
        for kind_name in (_VALUES, _EMBEDDINGS):
            prefix = kind_name + "-"
            names = [n.removeprefix(prefix) for n in self._columns if n.startswith(prefix)]
            index[kind_name + "s"] = names
        (self.folder / _INDEX_FILE).write_text(json.dumps(index, indent=1))


def join_tables(parts: Sequence[Path], folder: Path) -> None:
    """Writes tables as one, one after the other; none of them is in memory.

    Args:
        parts: Tables as `TableWriter` writes them, of images of their own each; at least one.
        folder: The table to make.

    Raises:
        ValueError: If they have not the same columns.
    """
    found = [json.loads((part / _INDEX_FILE).read_text()) for part in parts]
    folder.mkdir(parents=True)
    joined: dict[str, Any] = {
        "images": [path for index in found for path in index["images"]],
        "rows": sum(index["rows"] for index in found),
    }
    firsts = np.cumsum([0, *(len(index["images"]) for index in found)]).tolist()
    filled = [i for i, index in enumerate(found) if index["rows"]]  # the others have no columns
    names = ["image", "box"]
    for kind in (_VALUES, _EMBEDDINGS):
        key = kind + "s"
        joined[key] = found[filled[0]][key] if filled else []
        if any(found[i][key] != joined[key] for i in filled):
            raise ValueError(f"{folder}: its parts have not the same columns")
        names += [f"{kind}-{name}" for name in joined[key]]
    for name in names:
        files = {i: parts[i] / f"{name}.npy" for i in filled or [0]}
        with next(iter(files.values())).open("rb") as opened:
            shape, dtype = _read_header(opened)
        out = _ColumnFile(folder / f"{name}.npy", joined["rows"], shape[1:], dtype.str)
        for i, file in files.items():
            out.join(file, firsts[i] if name == "image" else 0)
        out.close()
    (folder / _INDEX_FILE).write_text(json.dumps(joined, indent=1))
