"""The order in which files come to a folder changes nothing."""

import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segal.candidates.budget import Allowance
from segal.candidates.regions import RegionSize
from segal.candidates.table import CandidateTable
from segal.data.pool import open_pool
from segal.scanning.scan import LABELLED_FOLDER, Scan, ScanSettings
from segal.strategies import STRATEGIES
from segal.strategies.base import PassContext, choose
from segal.tasks.segmentation.task import Segmentation

# Names that sort differently by locale, by case and by bytes.
NAMES = ("a/b.png", "a.png", "A.png", "a/é.png", "a/e.png", "z/10.png", "z/9.png", "ab/c.png")


def picks_of(folder, order, model, name):
    """Writes the files in that order, scans and picks: image, box and score of every pick."""
    for i in order:
        rng = np.random.default_rng(i)
        path = folder / NAMES[i]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (33 + i % 2, 47, 3), dtype=np.uint8))
    pool = open_pool(folder)
    assert list(pool.paths) == sorted(NAMES, key=lambda n: n.encode())
    strategy = STRATEGIES.get(name)()
    signals = next(iter(strategy.passes(PassContext())), [])
    with tempfile.TemporaryDirectory() as out:
        Scan(
            pool=pool,
            task=Segmentation(),
            regions=[RegionSize.parse("16")],
            settings=ScanSettings(torch.device("cpu"), workers=2, batch_size=3),
            signals=signals,
            model=model,
        ).run(Path(out) / "candidates")
        table = CandidateTable.open(Path(out) / "candidates" / "16")
        labelled = CandidateTable.open(Path(out) / "candidates" / LABELLED_FOLDER)
        generator = torch.Generator().manual_seed(0)
        picks = choose(strategy, table, labelled, Allowance(2000, "pixels"), generator)
        return [
            (table.images[table.image[row]], tuple(table.box[row]), score)
            for row, score in zip(picks.rows, picks.scores, strict=True)
        ]


@pytest.mark.parametrize("name", ["random", "uwe"])
@settings(max_examples=6, deadline=None)
@given(order=st.permutations(range(len(NAMES))))
def test_permuting_files_changes_nothing(model, name, order):
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        usual = picks_of(Path(first), range(len(NAMES)), model, name)
        permuted = picks_of(Path(second), order, model, name)
    assert len(usual) >= 5
    assert permuted == usual
