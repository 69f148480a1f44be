"""Large images, tile by tile: the oracle is the same scan of the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from segal.candidates.regions import Box, RegionSize
from segal.candidates.table import CandidateTable
from segal.data.datasets import open_dataset
from segal.data.image_file import Large, Reading
from segal.data.pool import ImagePool, open_pool
from segal.data.transforms import TrainingTransform
from segal.errors import SegalError
from segal.functional.overlapping import overlapping
from segal.scanning.scan import LABELLED_FOLDER, Scan, ScanSettings
from segal.signals import MeanFeature, Signal, Value, in_pieces
from segal.signals.by_class import (
    MeanSoftmax,
    PredictedShares,
    Tempered,
    ValueByClass,
    WeightedByClass,
)
from segal.tasks import find_task
from segal.tasks.segmentation.model import SegmentationModel
from segal.tasks.tiles import Layout
from segal.training.sampling import LabelledRegions, Samples
from segal.training.settings import TrainSettings
from tests.large_images import REACH, as_large, near_model, noise, write

SIGNALS: tuple[Signal, ...] = (
    Value("entropy"),
    Value("least_confidence"),
    Value("margin", "max"),
    Value("bvsb", "sum"),
    MeanFeature(),
    MeanSoftmax(),
    MeanSoftmax(0.5),
    ValueByClass("bvsb", 2.0),
    WeightedByClass("entropy"),
    PredictedShares(),
    Tempered("margin", 2.0),
)
SIZES = ("100", "64x300", "image")
WHOLE = Reading(large=Large(above=1e3))
Tables = dict[str, CandidateTable]


def scan(
    folder: Path,
    reading: Reading,
    out: Path,
    *,
    model: SegmentationModel | None = None,
    signals: Sequence[Signal] = SIGNALS,
    sizes: Sequence[str] = SIZES,
    excluded: Mapping[int, tuple[Box, ...]] | None = None,
    labelled: Mapping[int, Sequence[Box]] | None = None,
    batch_size: int = 1,
    workers: int = 0,
) -> tuple[Tables, tuple[str, ...]]:
    pool = open_pool(folder, reading=reading)
    notes = Scan(
        pool,
        find_task("segmentation"),
        [RegionSize.parse(size) for size in sizes],
        ScanSettings(torch.device("cpu"), batch_size, workers),
        signals,
        model or near_model(),
        labelled or {},
        excluded or {},
    ).run(out)
    return {name: CandidateTable.open(out / name) for name in (*sizes, LABELLED_FOLDER)}, notes


def gaps(one: CandidateTable, other: CandidateTable) -> dict[str, float]:
    """The largest difference of each column, by pixel where it is a sum."""
    np.testing.assert_array_equal(one.box, other.box)
    np.testing.assert_array_equal(one.image, other.image)
    found = {}
    for name, values in one.values.items():
        by = one.pixels if name.endswith("-sum") else 1
        found[name] = float((np.abs(values - other.values[name]) / by).max())
    for name in one.embeddings:
        found[name] = float(np.abs(one.embedding(name) - other.embedding(name)).max())
    return found


@pytest.mark.parametrize("size", [(384, 512), (333, 421), (100, 500), (90, 100)])
def test_tiles_measure_what_the_whole_does(tmp_path: Path, size: tuple[int, int]) -> None:
    """On grids that tiles do not follow, of odd sizes, a row of tiles, and a single one."""
    write(tmp_path / "pool" / "a.tif", noise(*size))
    height, width = size
    labelled = {0: [(3, 5, 50, 90), (0, 0, width, height), (width - 31, 20, width, 77)]}
    excluded = {0: ((0, 0, 45, 40), (40, 70, 41, 71), (width // 2, height // 2, width, height))}
    every = size == (384, 512)
    signals = SIGNALS if every else (SIGNALS[0], SIGNALS[2], SIGNALS[4])
    for without in ({}, excluded) if every else (excluded,):
        given = {"labelled": labelled, "excluded": without, "signals": signals}
        whole, _ = scan(tmp_path / "pool", WHOLE, tmp_path / f"whole {bool(without)}", **given)
        out = tmp_path / f"tiled {bool(without)}"
        tiled, notes = scan(tmp_path / "pool", as_large(), out, batch_size=2, workers=1, **given)
        assert "tiles of 128 pixels that overlap by 64" in notes[0]
        for name in whole:
            found = gaps(whole[name], tiled[name])
            assert len(found) >= len(signals) - (name == LABELLED_FOLDER)
            assert max(found.values()) < 1e-5, (name, found)


def test_an_overlap_is_enough_where_a_quarter_of_it_is_what_the_network_looks() -> None:
    assert as_large().large.overlap // 4 >= REACH


def test_what_the_blending_does_at_seams(tmp_path: Path) -> None:
    """A network that looks further differs at seams alone, and less than where nothing overlaps."""
    write(tmp_path / "pool" / "a.tif", noise(256, 512))
    far = near_model(dilation=5)  # looks 29 pixels far, and a quarter of the overlap is 16
    found = {}
    for name, reading in (
        ("whole", WHOLE),
        ("blended", as_large(256, 64)),
        ("cut", as_large(256, 0)),
    ):
        given = {"model": far, "signals": SIGNALS[:1], "sizes": ("8",)}
        tables, _ = scan(tmp_path / "pool", reading, tmp_path / name, **given)
        found[name] = tables["8"].values["entropy"].reshape(32, 64)
    blended, cut = (np.abs(found[name] - found["whole"]) for name in ("blended", "cut"))
    # Tiles along the width: 0 to 256, 192 to 448, 256 to 512; they pass over at 224 and 352.
    columns = np.arange(64) * 8
    near = ((columns >= 200) & (columns < 248)) | ((columns >= 328) & (columns < 376))
    assert blended[:, ~near].max() < 1e-5
    assert 1e-5 < blended[:, near].max() < 0.5 * cut.max()
    assert blended.mean() < 0.2 * cut.mean()


def test_neither_batches_nor_workers_nor_the_file_change_what_is_measured(tmp_path: Path) -> None:
    write(tmp_path / "tiles" / "a.tif", noise(200, 300))
    write(tmp_path / "strips" / "a.tif", noise(200, 300), rowsperstrip=7, compression="zlib")
    few = {"signals": (SIGNALS[0], SIGNALS[4]), "sizes": ("100",)}
    one, _ = scan(tmp_path / "tiles", as_large(), tmp_path / "one", **few)
    how = {"batch_size": 3, "workers": 2, **few}
    other, _ = scan(tmp_path / "strips", as_large(), tmp_path / "other", **how)
    assert max(gaps(one["100"], other["100"]).values()) < 1e-6


def test_tiles_without_data_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "pool" / "a.tif", noise(320, 320))
    read = []
    window = ImagePool.window
    monkeypatch.setattr(
        ImagePool, "window", lambda pool, i, box: read.append(box) or window(pool, i, box)
    )
    excluded = {0: ((0, 0, 320, 160), (0, 160, 100, 320))}
    few = {"excluded": excluded, "signals": (SIGNALS[0], SIGNALS[4]), "sizes": ("100",)}
    tables, _ = scan(tmp_path / "pool", as_large(), tmp_path / "one", **few)
    every = Layout.of((320, 320), as_large().large, near_model().spec)
    assert len(read) < len(every.rows) * len(every.columns)
    assert read[0] == (0, 0, 128, 128)  # what columns are like is known of the first
    table = tables["100"]
    nothing = (table.box[:, 3] <= 160) | ((table.box[:, 0] == 0) & (table.box[:, 1] >= 160))
    assert nothing.any()
    assert (table.values["entropy"][nothing] == 0).all()
    assert (table.embedding("mean_feature")[nothing] == 0).all()
    whole, _ = scan(tmp_path / "pool", WHOLE, tmp_path / "whole", **few)
    assert max(gaps(whole["100"], table).values()) < 1e-5


def test_tiles_begin_where_the_network_s_grid_does() -> None:
    spec = replace(near_model().spec, stride=32, input_scale=0.75)
    layout = Layout.of((5000, 3000), Large(1, 1000, 100), spec)
    for span in (*layout.rows, *layout.columns):
        assert span.start * 0.75 % 32 == 0
        assert span.stop - span.start <= 1024
    assert layout.rows[-1].stop == 5000


def test_weights_of_tiles_sum_to_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        step = int(rng.integers(1, 9))
        tile = step * int(rng.integers(2, 40))
        overlap = step * int(rng.integers(0, tile // step // 2 + 1))
        length = int(rng.integers(1, 600))
        total = np.zeros(length)
        for span in overlapping(length, tile, overlap, step):
            assert span.start % step == 0
            total[span.first : span.last] += span.weights()
        np.testing.assert_allclose(total, 1, rtol=1e-12)
    with pytest.raises(ValueError, match="half a tile"):
        overlapping(100, 10, 6)


def test_which_signals_are_measured_in_pieces() -> None:
    assert all(map(in_pieces, SIGNALS))
    assert not in_pieces(Value("tests.large_images:build"))
    assert not in_pieces(PredictedShares(borders=True))


def test_a_signal_of_whole_images_is_refused_by_a_scan(tmp_path: Path) -> None:
    write(tmp_path / "pool" / "a.tif", noise(100, 100))
    with pytest.raises(SegalError, match="predicted_borders: not measured"):
        scan(tmp_path / "pool", as_large(), tmp_path / "o", signals=(PredictedShares(True),))
    assert not (tmp_path / "o").exists()


def _dataset(folder: Path, reading: Reading):
    if not folder.exists():
        write(folder / "images" / "train" / "a.tif", noise(300, 400))
        labels = np.kron(noise(30, 40)[..., 0] % 4, np.ones((10, 10), np.uint8)).astype(np.uint8)
        write(folder / "labels" / "train" / "a.tif", labels)
        (folder / "classes.txt").write_text("a\nb\nc\nd\n")
    return open_dataset(folder, "train", reading=reading)


def test_crops_are_those_of_the_whole_and_read_windows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = {0: [(10, 20, 110, 120), (300, 200, 400, 300), (60, 100, 160, 200)]}
    found = []
    for reading in (WHOLE, as_large()):
        dataset = _dataset(tmp_path / "data", reading)
        regions = LabelledRegions.of(dataset, labelled)
        samples = Samples(dataset, regions, TrainingTransform((64, 80), colour_jitter=0), 3)
        if found:

            def never(*_: object) -> None:
                raise AssertionError("the whole is read")

            monkeypatch.setattr(ImagePool, "read", never)
            monkeypatch.setattr(type(dataset), "read_label", never)
        found.append([samples(number) for number in range(12)])
    for (image, label), (other, other_label) in zip(*found, strict=True):
        np.testing.assert_array_equal(image, other)
        np.testing.assert_array_equal(label, other_label)
    assert any((label != 255).any() for _, label in found[0])


def test_an_evaluation_in_tiles_is_that_of_the_whole(tmp_path: Path) -> None:
    task, found = find_task("segmentation"), []
    for reading in (WHOLE, as_large()):
        dataset = _dataset(tmp_path / "data", reading)
        found.append(task.evaluation(near_model(), dataset))
        found[-1].metrics  # noqa: B018
    whole, tiled = found
    assert whole.confusions.sum() == tiled.confusions.sum() == 300 * 400
    # Classes that are as likely as each other but for rounding may go either way.
    assert np.abs(whole.confusions - tiled.confusions).sum() <= 4
    np.testing.assert_array_equal(whole.labels, tiled.labels)
    assert (whole.predictions != tiled.predictions).sum() <= 1


def test_a_crop_of_a_whole_large_image_is_refused(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "data", as_large())
    with pytest.raises(SegalError, match=r"train\.crop"):
        find_task("segmentation").transform(TrainSettings(crop="image"), dataset.pool, [0])


def test_how_large_images_are_looked_at_is_part_of_identity() -> None:
    assert Reading().identity() == {}
    assert as_large().identity()["large"]["tile"] == 128
