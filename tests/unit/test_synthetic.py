import hashlib
from pathlib import Path

import numpy as np
import pytest

from segal.data.cityscapes import classes
from segal.data.datasets import open_dataset, splits
from segal.errors import SegalError
from segal.scenes.synthetic import FRAMES, make_frame, make_scenes

SIZE = (64, 128)


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*.png")
    }


def test_scenes_are_read_as_cityscapes(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make_scenes(
        tmp_path,
        splits={"train": 7, "val": 2},
        size=SIZE,
        seed=1,
        odd_sizes=False,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i, 9) for i in range(1, 10)]
    assert splits(tmp_path) == ["train", "val"]
    train, val = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val")
    assert (len(train), len(val)) == (7, 2)
    train.check()
    val.check()
    image, ids = make_frame("train", 6, size=SIZE, seed=1, odd_sizes=False)
    assert np.array_equal(train.pool.read(6), image)
    assert np.array_equal(train.read_label(6), classes().map(ids))
    assert {train.pool.size(i) for i in range(7)} == {SIZE}


def test_the_same_seed_gives_the_same_bytes_and_more_frames_keep_the_earlier(
    tmp_path: Path,
) -> None:
    make_scenes(tmp_path / "a", splits={"val": 1, "train": 6}, size=SIZE, seed=3)
    make_scenes(tmp_path / "b", splits={"train": 8}, size=SIZE, seed=3)
    make_scenes(tmp_path / "c", splits={"train": 6}, size=SIZE, seed=4)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    train = {name: digest for name, digest in a.items() if "/train/" in name}
    assert len(train) == 12
    assert all(b[name] == digest for name, digest in train.items())
    assert len(b) == 16
    assert not set(c.values()) & set(a.values())
    assert not list(tmp_path.rglob("*.tmp"))


def test_odd_sizes() -> None:
    sizes = [make_frame("train", FRAMES * i, size=SIZE, seed=0)[1].shape for i in range(12)]
    assert set(sizes) == {SIZE, (SIZE[0] - 3, SIZE[1] + 5)}


def test_classes_are_all_there_some_rare_and_some_void() -> None:
    share = np.zeros(256)
    for number in range(0, 60 * FRAMES, FRAMES):
        _, ids = make_frame("train", number, size=SIZE, seed=0, odd_sizes=False)
        mapped = classes().map(ids)
        share += np.bincount(mapped.ravel(), minlength=256) / mapped.size / 60
    names = classes().names
    shares = dict(zip(names, share[: len(names)], strict=True))
    assert min(shares.values()) > 0
    assert 0.01 < share[255] < 0.1
    assert shares["road"] > 0.2
    for rare in ("truck", "bus", "train", "motorcycle"):
        assert shares[rare] < 0.015


def test_frames_of_a_sequence_are_more_alike_than_those_of_two() -> None:
    def ids(number: int) -> np.ndarray:
        return make_frame("train", number, size=SIZE, seed=5, odd_sizes=False)[1]

    near = [(ids(n) == ids(n + 1)).mean() for n in range(0, 40, FRAMES)]
    far = [(ids(n) == ids(n + FRAMES)).mean() for n in range(0, 40, FRAMES)]
    assert np.mean(near) > np.mean(far) + 0.05
    assert max(near) < 1


def test_colour_alone_does_not_tell_the_classes() -> None:
    """A table from colours of all pixels to their commonest class is wrong for many of them."""
    counts = np.zeros((2, 16**3, 20))
    for number in range(0, 24 * FRAMES, FRAMES):
        image, ids = make_frame("train", number, size=SIZE, seed=0, odd_sizes=False)
        mapped = classes().map(ids)
        kept = mapped < 19
        colour = (image // 16).astype(int) @ (256, 16, 1)
        np.add.at(counts[number // FRAMES % 2], (colour[kept], mapped[kept]), 1)
    best = counts[0].argmax(1)
    right = counts[1][np.arange(16**3), best].sum() / counts[1].sum()
    assert right < 0.7


@pytest.mark.parametrize(
    "change", [{"size": (16, 128)}, {"seed": -1}, {"splits": {"train": -2}}, {"splits": {}}]
)
def test_senseless_numbers(tmp_path: Path, change: dict[str, object]) -> None:
    options: dict[str, object] = {"splits": {"train": 1}, "size": SIZE, "seed": 0} | change
    with pytest.raises(SegalError, match="scenes cannot be made"):
        make_scenes(tmp_path, **options)  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "gtFine").write_text("in the way")
    with pytest.raises(SegalError, match="cannot be written"):
        make_scenes(tmp_path, splits={"train": 1}, size=SIZE, seed=0)
