"""`segal select` of a large image: what has no data is never offered, charged or handed out."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segal.data.images import read_image
from segal.data.pool import ImagePool
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run
from tests.large_images import Near, noise, write
from tests.quick_run import quick_run

SIZE = 300, 420


def _pool(folder: Path) -> np.ndarray:
    """An image with a corner and a region of 100 without data; whether pixels have some."""
    shown = np.ones(SIZE, bool)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    shown[x + y < 150] = False
    shown[200:, 300:400] = False
    pixels = np.dstack([noise(*SIZE), np.where(shown, 255, 0).astype(np.uint8)])
    write(folder / "pool" / "a.tif", pixels, extrasamples=["unassalpha"], compression="zlib")
    torch.manual_seed(0)
    torch.save(Near().state_dict(), folder / "weights.pth")
    return shown


def test_a_selection_of_a_large_image(segal, tmp_path, monkeypatch):
    shown = _pool(tmp_path)
    call = (
        "select", "--images", tmp_path / "pool", "--checkpoint", tmp_path / "weights.pth",
        "--arch", "tests.large_images:build", "--num-classes", 4, "--mean", "0.5,0.5,0.5",
        "--std", "0.3,0.3,0.3", "--region", 100, "--overlays", 1, "machine.threads=1",
        "large.above=0.01", "large.tile=128", "large.overlap=64",
    )  # fmt: skip
    code, _, error = segal(*call, "--strategy", "badge", "--budget", 3, "--out", tmp_path / "no")
    assert code == 2
    assert "strategy badge: not on images that are looked at in tiles" in error
    assert "entropy" in error
    assert not (tmp_path / "no" / "candidates").exists()

    def never(pool: ImagePool, index: int) -> None:
        raise AssertionError(f"{pool.paths[index]} is decoded as a whole")

    monkeypatch.setattr(ImagePool, "read", never)
    out = tmp_path / "run"
    assert segal(*call, "--strategy", "entropy", "--budget", "100%", "--out", out)[0] == 0
    rows = list(csv.DictReader((out / "selection.csv").open()))
    picked = {tuple(int(row[key]) for key in ("x", "y")): int(row["pixels"]) for row in rows}
    left = {
        (x, y): int(shown[y : y + 100, x : x + 100].sum())
        for y in range(0, SIZE[0], 100)
        for x in range(0, SIZE[1], 100)
    }
    assert left[300, 200] == 0
    assert 0 < left[0, 100] < 10_000
    assert picked == {place: pixels for place, pixels in left.items() if pixels}
    mask = cv2.imread(str(out / "masks" / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask > 0, shown)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["cost"]["share_of_pool"] == 1
    assert "looked at in tiles of 128 pixels" in " ".join(summary["notes"])
    assert [path.name for path in (out / "overlays").iterdir()] == ["0001_a.png"]


@pytest.mark.slow
def test_a_run_on_large_images(tmp_path, monkeypatch):
    """Trained on crops, evaluated, scanned and drawn in windows: no image is decoded as a whole."""
    for split, seed in (("train", 0), ("train", 1), ("val", 2)):
        labels = np.kron(noise(30, 40, seed=seed)[..., 0] % 4, np.ones((10, 10), np.uint8))
        pixels = np.stack([labels * 60] * 3, -1) + np.uint8(seed)
        write(tmp_path / "data" / "images" / split / f"{seed}.tif", np.ascontiguousarray(pixels))
        write(tmp_path / "data" / "labels" / split / f"{seed}.tif", labels.astype(np.uint8))
    (tmp_path / "data" / "classes.txt").write_text("a\nb\nc\nd\n")
    sizes = {"above": 0.01, "tile": 128, "overlap": 32}
    data = {"root": str(tmp_path / "data"), "test": "val", "large": sizes}
    sizes = {"seed_region": "100", "region": "100", "seed_set": "3", "budgets": ["3"]}
    raw = quick_run(tmp_path, data=data, out=str(tmp_path / "run"), **sizes)

    def never(*given: object) -> None:
        raise AssertionError(f"{given} is decoded as a whole")

    monkeypatch.setattr(ImagePool, "read", never)
    monkeypatch.setattr("segal.data.pool.read_image", never)
    outcome = run_rounds(*configure_run(raw))
    assert any("looked at in tiles of 128 pixels" in note for note in outcome.notes)
    metrics = json.loads((tmp_path / "run" / "rounds" / "001" / "metrics.json").read_text())
    assert np.sum(metrics["test"]["confusion"]) == 300 * 400
    (picture,) = (tmp_path / "run" / "rounds" / "000" / "overlays").iterdir()
    assert read_image(picture).shape[1] > 1000
