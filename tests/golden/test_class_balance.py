"""Strategies that look at classes, and what they measure, against loops over pixels."""

import math

import numpy as np
import pytest
import torch

from segal.candidates.evidence import Evidence, Upsampling
from segal.candidates.regions import Boxes, RegionSize
from segal.candidates.table import CandidateTable, box_pixels
from segal.errors import SegalError
from segal.signals.by_class import (
    MeanSoftmax,
    PredictedShares,
    Tempered,
    ValueByClass,
    WeightedByClass,
)
from segal.strategies._turns import of_share, take_turns
from segal.strategies.base import PassContext
from segal.strategies.bvsb import BestVersusSecondBest
from segal.strategies.clasp import ClassStratifiedPower
from segal.strategies.pixbal import PixelwiseBalance
from segal.strategies.random import Random
from segal.tasks.detection.signals import MEASURED
from segal.tasks.detection.signals.elements import OfBoxes, Slices

C, H, W = 4, 7, 10
BOXES = Boxes(((0, 0, 4, 5), (3, 2, 10, 7), (9, 6, 10, 7)))


def evidence(seed=0, batch=2, scale=3.0):
    logits = torch.randn(batch, C, H, W, generator=torch.Generator().manual_seed(seed)) * scale
    return Evidence(logits, None, Upsampling((H, W), align_corners=True))


def probabilities(z, temperature=1.0):
    z = [float(value) / temperature for value in z]
    top = max(z)
    powers = [math.exp(value - top) for value in z]
    return [power / sum(powers) for power in powers]


def of_pixel(signal, logits, y, x):
    """(C,) what a pixel adds to a candidate's mean."""
    z = logits[:, y, x]
    p = probabilities(z)
    predicted = p.index(max(p))
    if isinstance(signal, MeanSoftmax):
        return probabilities(z, signal.temperature)
    if isinstance(signal, ValueByClass):
        first, second = sorted(probabilities(z, signal.temperature))[:-3:-1]
        return [second / first * (c == predicted) for c in range(C)]
    if isinstance(signal, WeightedByClass):
        entropy = -sum(one * math.log(one) for one in p)
        return [one * entropy for one in p]
    neighbours = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    on_border = any(
        logits[:, i, j].argmax().item() != predicted
        for i, j in neighbours
        if 0 <= i < H and 0 <= j < W
    )
    return [float(c == predicted and (on_border or not signal.borders)) for c in range(C)]


@pytest.mark.parametrize(
    "signal",
    [
        MeanSoftmax(), MeanSoftmax(0.1), ValueByClass("bvsb"), ValueByClass("bvsb", 0.5),
        WeightedByClass("entropy"), PredictedShares(), PredictedShares(borders=True),
    ],
    ids=lambda signal: signal.column,
)  # fmt: skip
@pytest.mark.parametrize("units", [BOXES, RegionSize(3, 4).grid(H, W)], ids=["boxes", "grid"])
def test_signals_are_means_over_pixels_class_by_class(signal, units):
    found = evidence()
    measured = signal.measure(found, units).numpy()
    assert measured.shape == (2, len(units), C)
    for image, logits in enumerate(found.logits):
        for unit, (x0, y0, x1, y1) in enumerate(units.boxes().tolist()):
            pixels = [of_pixel(signal, logits, y, x) for y in range(y0, y1) for x in range(x0, x1)]
            expected = np.mean(pixels, 0)
            np.testing.assert_allclose(measured[image, unit], expected, rtol=1e-5, atol=1e-7)


def test_over_the_classes_they_sum_to_what_is_pooled_of_all():
    found = evidence()
    for by_class, whole in (
        (ValueByClass("bvsb", 2.0), Tempered("bvsb", 2.0)),
        (WeightedByClass("entropy"), Tempered("entropy", 1.0)),
    ):
        total = by_class.measure(found, BOXES).sum(-1)
        torch.testing.assert_close(total, whole.measure(found, BOXES), rtol=1e-6, atol=1e-9)


def test_of_a_detector_a_box_is_an_element():
    logits = evidence(batch=1).logits[..., :1, :5]
    found = Evidence(logits, None, Upsampling((1, 5), align_corners=True))
    slices = Slices((2, 0, 3))
    for signal in (MeanSoftmax(0.1), ValueByClass("bvsb", 0.5), WeightedByClass("entropy")):
        assert MEASURED[type(signal)] is OfBoxes
        measured = signal.measure(found, slices)[0].numpy()
        boxes = [of_pixel(signal, logits[0], 0, x) for x in range(5)]
        expected = [np.mean(boxes[:2], 0), np.zeros(C), np.mean(boxes[2:], 0)]
        np.testing.assert_allclose(measured, expected, rtol=1e-5, atol=1e-7)


def test_shares_need_pixels_and_a_class_that_is_there(model):
    PredictedShares(background=4).check(model)
    with pytest.raises(SegalError, match=r"strategy\.background: no class 5") as caught:
        PredictedShares(background=5).check(model)
    assert "0 to 4" in caught.value.expected


# The strategies, on tables


def table_of(images=5, seed=0, **embeddings):
    """Two regions of unequal size in each image."""
    box = np.tile(np.array([[0, 0, 8, 8], [8, 0, 12, 8]], np.int32), (images, 1))
    rng = np.random.default_rng(seed)
    n = len(box)
    columns = {name: rng.dirichlet(np.full(3, 0.4), n).astype(np.float32) for name in embeddings}
    return CandidateTable(
        images=tuple(f"{i}.png" for i in range(images)),
        image=np.repeat(np.arange(images, dtype=np.int32), 2),
        box=box,
        pixels=box_pixels(box),
        values={"entropy": rng.random(n)},
        embeddings={name: columns[name] for name in embeddings},
    )


def columns_of(strategy):
    (signals,) = strategy.passes(PassContext())
    return {signal.column: 3 for signal in signals if signal.column != "entropy"}


def pick(strategy, table, count, labelled=None, seed=0):
    if labelled is None:
        labelled = table.view(np.zeros(0, np.int64), np.zeros(0, np.int64))
    return strategy.select(table, labelled, count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("with_labelled", [False, True])
def test_pixbal_weighs_by_how_seldom_a_class_is_predicted(with_labelled):
    strategy = PixelwiseBalance(nu=12.0)
    table = table_of(**columns_of(strategy))
    labelled = table_of(images=2, seed=1, **columns_of(strategy)) if with_labelled else None
    total, pixels = [0.0] * 3, 0
    for part in [table, *([labelled] if with_labelled else [])]:
        for row, (x0, y0, x1, y1) in enumerate(part.box.tolist()):
            area = (x1 - x0) * (y1 - y0)
            pixels += area
            for c in range(3):
                total[c] += area * float(part.embeddings["mean_softmax-0.1"][row, c])
    scores = [
        sum(float(u) * (12 * t / pixels + 1) ** -2 for u, t in zip(row, total, strict=True))
        for row in table.embeddings["by_class-bvsb-1.0"]
    ]
    picks = pick(strategy, table, 6, labelled)
    assert picks.rows.tolist() == sorted(range(10), key=lambda row: -scores[row])[:6]
    np.testing.assert_allclose(picks.scores, sorted(scores)[:3:-1], rtol=1e-12)


def test_pixbal_without_a_weight_is_bvsb():
    found = evidence(batch=1)
    units = RegionSize(2, 2).grid(H, W)
    strategy = PixelwiseBalance(nu=0.0)
    (signals,) = strategy.passes(PassContext())
    measured = {s.column: s.measure(found, units)[0].float().numpy() for s in signals}
    (value,) = next(iter(BestVersusSecondBest().passes(PassContext())))
    boxes = units.boxes()
    table = CandidateTable(
        ("a.png",), np.zeros(len(boxes), np.int32), boxes, box_pixels(boxes),
        {value.column: value.measure(found, units)[0].numpy()}, measured,
    )  # fmt: skip
    ours, theirs = pick(strategy, table, 10), pick(BestVersusSecondBest(), table, 10)
    assert ours.rows.tolist() == theirs.rows.tolist()


@pytest.mark.parametrize("share", [0.0, 1 / 3, 2 / 3, 0.5, 1.0])
def test_turns_of_a_share_are_spread_evenly(share):
    turns = list(of_share(share, 30))
    for count in range(31):
        assert sum(turns[:count]) == math.floor(count * share + 1e-9)


def test_orders_take_turns():
    orders = [np.array([0, 1, 2, 3]), np.array([1, 0, 3, 2])]
    assert take_turns(orders, [0, 1, 1, 0]).tolist() == [0, 1, 3, 2]


def test_clasp_without_noise_gives_each_class_its_best():
    strategy = ClassStratifiedPower(beta=1e9, last_beta=1e9)
    table = table_of(images=10, **columns_of(strategy))
    by_class = table.embeddings["weighted_by_class-entropy"]
    picks = pick(strategy, table, 9)
    taken, lists = [], []
    for turn, row in enumerate(picks.rows.tolist()):
        free = [r for r in range(20) if r not in taken]
        if turn % 3 == 0:  # two of three turns are of the classes, as of 2/3, 4/3, 2, ...
            assert row == max(free, key=lambda r: table.values["entropy"][r])
        else:
            best = {c: max(free, key=lambda r: by_class[r, c]) for c in range(3)}
            lists.append({c for c, r in best.items() if r == row})
            assert lists[-1]
        taken.append(row)
    # Six turns of three classes: each has two, in the same order.
    assert all(first & second for first, second in zip(lists[:3], lists[3:], strict=True))
    assert set.union(*lists[:3]) == {0, 1, 2}


def test_clasp_leaves_the_background_out_and_draws_by_power():
    table = table_of(images=2, **columns_of(ClassStratifiedPower()))
    by_class = table.embeddings["weighted_by_class-entropy"].astype(float)
    strategy = ClassStratifiedPower(share=1.0, beta=2.0, background=1)
    first = [pick(strategy, table, 1, seed=seed).rows[0] for seed in range(1500)]
    # Gumbel noise of scale 1 / beta on a logarithm is a draw in proportion to the beta-th power.
    powers = by_class[:, [0, 2]] ** 2
    expected = (powers / powers.sum(0)).mean(1)
    found = np.bincount(first, minlength=len(table)) / 1500
    np.testing.assert_allclose(found, expected, atol=4 * math.sqrt(0.25 / 1500))
    assert pick(strategy, table, 1).notes == ("Noise was drawn at beta 2.",)


def test_clasp_grows_sharper_from_round_to_round():
    strategy = ClassStratifiedPower()
    betas = [strategy.at_round(i, 5).beta for i in range(5)]
    assert betas == pytest.approx([1, 10**0.5, 10, 10**1.5, 100])
    assert strategy.at_round(0, 1).beta == 1


def test_random_draws_a_third_on_foreground_and_its_borders():
    strategy = Random(foreground=1 / 3)
    table = table_of(images=30, **columns_of(strategy))
    shares = table.embeddings["predicted_shares"]
    shares[:] = [1, 0, 0]
    shares[7], shares[21], shares[40] = [0, 1, 0], [0.5, 0.5, 0], [0.2, 0, 0.8]
    borders = table.embeddings["predicted_borders"]
    borders[:] = 0
    borders[21], borders[40] = [0.1, 0.3, 0], [0, 0, 0.1]
    thirds, sixths = [], []
    for seed in range(1500):
        rows = pick(strategy, table, 6, seed=seed).rows
        thirds.append(rows[2])
        sixths.append(rows[5])
    counts = np.bincount(thirds, minlength=60) / 1500
    # A class, then a pixel of it: row 40 holds all of class 2, rows 7 and 21 class 1 by area.
    area = table.pixels
    of_one = np.array([area[7] * 1.0, area[21] * 0.5])
    expected = [*(of_one / of_one.sum() / 2), 0.5]
    # Two draws from anywhere came before, which takes some of it away.
    np.testing.assert_allclose(counts[[7, 21, 40]], expected, atol=0.06)
    assert counts[[7, 21, 40]].sum() > 0.98
    on_border = np.bincount(sixths, minlength=60) / 1500
    assert on_border[[21, 40]].sum() > 0.6
    assert on_border[7] < 0.1


def test_random_with_foreground_keeps_what_chance_draws_in_between():
    table = table_of(images=30, **columns_of(Random(foreground=0.5)))
    plain, mixed = pick(Random(), table, 60), pick(Random(foreground=0.5), table, 20)
    between = mixed.rows[::2].tolist()  # every second turn is of the foreground
    order = [row for row in plain.rows.tolist() if row not in set(mixed.rows[1::2].tolist())]
    assert between == order[: len(between)] or set(between) <= set(plain.rows.tolist())
    assert between[0] == plain.rows[0]


def test_random_says_that_there_is_no_foreground():
    table = table_of(**columns_of(Random(foreground=0.5)))
    table.embeddings["predicted_shares"][:] = [0, 1, 0]
    picks = pick(Random(foreground=0.5), table, 4)
    assert picks.notes[0].startswith("The network predicts no foreground")
    assert picks.rows.tolist() == pick(Random(), table, 4).rows.tolist()
    # Unless it is another class that is none.
    assert pick(Random(foreground=0.5, background=2), table, 4).notes == ()


def test_random_takes_one_scheme():
    with pytest.raises(ValueError, match="stratify none with foreground"):
        Random(foreground=0.5, stratify="image")
