"""A pool of ten thousand images, of which one in a hundred cannot be read."""

import shutil

import numpy as np
import pytest
import torch

from segal.candidates.selection import read_selection
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint
from tests.conftest import CLASSES, write_image

COUNT = 10_000


@pytest.mark.slow
def test_unreadable_images_are_left_out_wherever_they_are_scanned(segal, tmp_path):
    for seed in range(97):
        write_image(tmp_path / f"{seed}.png", 32, 32, seed)
    broken = set(np.random.default_rng(0).choice(COUNT, COUNT // 100, replace=False).tolist())
    (tmp_path / "images").mkdir()
    for i in range(COUNT):
        path = tmp_path / "images" / f"{i:05d}.png"
        shutil.copy(tmp_path / f"{i % 97}.png", path)
        if i in broken:
            path.write_bytes(path.read_bytes()[: i % 200])
    torch.manual_seed(0)
    network = build_model(make_spec("tests.tiny_network:build", "", CLASSES)).eval()
    save_checkpoint(network, tmp_path / "model.safetensors")
    given = [
        *("--images", tmp_path / "images", "--checkpoint", tmp_path / "model.safetensors"),
        *("--arch", "tests.tiny_network:build", "--region", "16", "--budget", "300"),
        *("--strategy", "entropy", "--overlays", "0", "--threads", "1", "--batch-size", "64"),
    ]
    code, _, stderr = segal("scan", *given, "--out", tmp_path / "scan")
    assert code == 2
    assert "100 of 10000 images cannot be read" in stderr
    given.append("--skip-unreadable")
    for shard in ("2/3", "3/3", "1/3"):
        code, _, stderr = segal("scan", *given, "--out", tmp_path / "scan", "--shard", shard)
        assert code == 0, stderr
    assert "Skipped 100 unreadable images." in stderr
    assert len([p for p in (tmp_path / "scan").iterdir() if p.name.isdecimal()]) > 20
    taking = ("--from-scan", tmp_path / "scan", "--out", tmp_path / "taken")
    assert segal("select", *given, *taking)[0] == 0
    assert segal("select", *given, "--out", tmp_path / "whole")[0] == 0
    picks = (tmp_path / "taken" / "selection.csv").read_bytes()
    assert picks == (tmp_path / "whole" / "selection.csv").read_bytes()
    chosen = {pick.image for pick in read_selection(tmp_path / "taken" / "selection.csv")}
    assert chosen.isdisjoint(f"{i:05d}.png" for i in broken)
