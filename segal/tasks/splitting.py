"""Which images a split holds, where a data set says so and where a hash of paths does."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segal.data.changes import listed
from segal.data.find import shortened
from segal.data.folder import split_of
from segal.data.pool import ImagePool
from segal.errors import SegalError, raise_all

Chooser = Callable[[Path, Sequence[str]], Collection[str]]
"""Chooses among all images of a split, which are given by their paths below what it is given."""

SEEDED = ("test", "train", "val")
"""The splits that a hash of paths makes."""


def split_names(official: Sequence[str], validation_share: float) -> list[str]:
    """The splits of a data set, sorted.

    Args:
        official: Those that it says itself; none where a hash decides.
        validation_share: In (0, 1): of a train without a val, what is val; 0 for none.

    Raises:
        SegalError: If the share is none.
    """
    if not official:
        return list(SEEDED)
    return sorted({*official, "val"}) if _cuts(official, validation_share) else list(official)


def check_split(root: Path, split: str, official: Sequence[str], validation_share: float) -> None:
    """Raises a SegalError for a split that is not there, or a share that is none."""
    there = split_names(official, validation_share)
    if split not in there:
        raise SegalError(
            f"{root}: there is no split {split!r}",
            expected=f"one of {', '.join(there)}"
            + ("" if "val" in there else "; validation_share cuts val off train"),
            got=split,
            remedy="choose one that is there, or check the path",
        )


def read_from(split: str, official: Sequence[str]) -> str | None:
    """The official split that holds a split's images; None where there is none."""
    return None if not official else split if split in official else "train"


def split_rows(
    images: Path,
    paths: Sequence[str],
    split: str,
    official: Sequence[str],
    validation_share: float,
) -> NDArray[np.int64]:
    """Positions of a split's images, in rising order.

    Args:
        images: Their folder, for messages.
        paths: Of the images of `read_from(split, official)`.
        split: One of `split_names`.
        official: As `split_names` takes it.
        validation_share: Likewise; the share is rounded, a hash of paths decides.

    Raises:
        SegalError: If a split holds no image.
    """
    if not official:
        names = np.array([split_of(path) for path in paths])
        rows = np.flatnonzero(names == split)
        if not len(rows):
            raise SegalError(
                f"{images}: the split {split!r} holds no image",
                expected="enough images for 70 % train, 15 % val, 15 % test",
                got=f"{len(paths)} images, of which none falls to {split}",
                remedy="split them yourself, or add images",
            )
        return rows
    every = np.arange(len(paths))
    if not _cuts(official, validation_share) or split not in ("train", "val"):
        return every
    hashes = [hashlib.sha256(path.encode()).digest() for path in paths]
    taken = round(validation_share * len(every))
    if not 0 < taken < len(every):
        raise SegalError(
            f"validation_share: {validation_share} of {len(every)} images leaves nothing of one",
            expected="at least one image in train and in val",
            got=f"{taken} for val",
            remedy="give another share",
        )
    validation = np.zeros(len(every), np.bool_)
    validation[sorted(range(len(every)), key=hashes.__getitem__)[:taken]] = True
    return np.flatnonzero(validation == (split == "val"))


def chosen_rows(
    images: Path,
    paths: Sequence[str],
    rows: NDArray[np.int64],
    place: tuple[Path, str],
    only: Collection[str] | Chooser,
) -> NDArray[np.int64]:
    """Those of a split's positions that are asked for, in rising order.

    Args:
        images: What paths are relative to.
        paths: Of all images.
        rows: Positions of the split's.
        place: The data set and the split, for messages.
        only: Paths, or what chooses them.

    Raises:
        SegalError: If an image is asked for that is not the split's.
    """
    root, split = place
    there = {paths[i]: i for i in rows.tolist()}
    chosen = set(only(images, list(there)) if callable(only) else only)
    foreign = sorted(chosen - there.keys())
    if foreign:
        raise SegalError(
            f"{root}: images that are not of split {split!r}",
            expected=f"paths relative to {images}",
            got=listed(foreign),
            remedy="choose the split that they were selected from, and select with that folder "
            "or file as --images",
        )
    return np.array(sorted(there[path] for path in chosen), np.int64)


def _cuts(official: Sequence[str], validation_share: float) -> bool:
    if not 0 <= validation_share < 1:
        raise SegalError(
            "validation_share: not a share",
            expected="0 to below 1",
            got=str(validation_share),
            remedy="such as 0.1",
        )
    return bool(validation_share) and "train" in official and "val" not in official


def refuse_shared(pools: Mapping[str, ImagePool]) -> None:
    """Raises a SegalError for every picture that is in more than one split, by its bytes.

    Args:
        pools: The images of each split, by its name.
    """
    first: dict[str, tuple[str, str]] = {}
    shared: dict[tuple[str, str], list[str]] = {}
    for split, pool in pools.items():
        for path, info in zip(pool.paths, pool.infos, strict=True):
            there, other = first.setdefault(info.digest, (split, path))
            if there != split:
                shared.setdefault((there, split), []).append(f"{other} and {path}")
    raise_all(
        shortened(
            [
                SegalError(
                    f"{pools[one].root}: the same pictures are in {one} and in {other}",
                    expected="different pictures to learn from and to be judged on",
                    got=f"{len(pairs)}: {listed(pairs)}",
                    remedy=f"take them out of {one} or {other}",
                )
                for (one, other), pairs in shared.items()
            ]
        )
    )
