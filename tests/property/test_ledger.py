"""Whatever is bought in whatever order: the charge is the painted area."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segal.data.images import ImageInfo
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.runs.ledger import Ledger, Purchase

_SIDE = 12


@st.composite
def _purchase(draw: st.DrawFn) -> tuple[str, tuple[int, int, int, int]]:
    x0, y0 = draw(st.integers(0, _SIDE - 1)), draw(st.integers(0, _SIDE - 1))
    box = (x0, y0, draw(st.integers(x0 + 1, _SIDE)), draw(st.integers(y0 + 1, _SIDE)))
    return draw(st.sampled_from(["a.png", "b.png"])), box


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(_purchase(), max_size=4), max_size=4))
def test_cost_is_the_painted_area(rounds):
    pool = ImagePool(
        root=Path("images"),
        paths=("a.png", "b.png"),
        infos=(ImageInfo(_SIDE, _SIDE, ""),) * 2,
        stats=((0, 0),) * 2,
    )
    painted, spent = {path: np.zeros((_SIDE, _SIDE), bool) for path in pool.paths}, 0
    with TemporaryDirectory() as folder, Ledger.open(Path(folder), "run", {}) as ledger:
        ledger.record_images(pool)
        for number, wanted in enumerate(rounds):
            trial = {path: mask.copy() for path, mask in painted.items()}
            charges = []
            for path, (x0, y0, x1, y1) in wanted:
                charges.append(int((~trial[path][y0:y1, x0:x1]).sum()))
                trial[path][y0:y1, x0:x1] = True
            purchases = [
                Purchase(rank, "random", path, box, 0.0, clicks=rank * (box[0] + 1))
                for rank, (path, box) in enumerate(wanted, 1)
            ]
            if 0 in charges:
                with pytest.raises(SegalError, match="bought already"):
                    ledger.finish("select", number, "f", purchases=purchases)
                continue
            bought = ledger.finish("select", number, "f", purchases=purchases)
            assert [p.pixels for p in bought] == charges
            spent += sum(p.clicks or 0 for p in purchases)
            assert ledger.cost().clicks == spent
            painted = trial
            assert ledger.cost().pixels == sum(int(mask.sum()) for mask in painted.values())
