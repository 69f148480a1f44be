"""VAAL against hand computation, brute force, and two populations that anyone can tell apart."""

import math
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segal.candidates.regions import Boxes, RegionSize
from segal.candidates.table import CandidateTable
from segal.data.image_sets import ImageSet
from segal.data.pool import open_pool
from segal.models.vaal import (
    SIDE,
    VaalTraining,
    adversarial_loss,
    discriminator_loss,
    negative_elbo,
    train_vaal,
)
from segal.scanning.scan import LABELLED_FOLDER, Scan, ScanSettings
from segal.scanning.workbench import Bench
from segal.signals.crops import place
from segal.signals.vaal import LooksLabelled
from segal.strategies import STRATEGIES
from segal.strategies.base import PassContext
from segal.tasks.segmentation.task import Segmentation

SIGNAL = LooksLabelled(VaalTraining(steps=60, batch_size=8, latent=8), crops=48)
REGIONS = ("32", "image")
HEIGHT, WIDTH = 70, 101
SETTINGS = ScanSettings(device=torch.device("cpu"))


def test_bound_equals_the_likelihood_and_divergence_of_torch():
    generator = torch.Generator().manual_seed(0)
    crops, decoded = torch.rand(2, 5, 3, 4, 4, generator=generator, dtype=torch.float64)
    mean, log_variance = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    likelihood = torch.distributions.Normal(decoded, math.sqrt(0.5)).log_prob(crops)
    constant = -0.5 * math.log(math.pi)
    code = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    divergence = torch.distributions.kl_divergence(code, prior)
    expected = (-(likelihood - constant).sum((1, 2, 3)) + 2.5 * divergence.sum(1)).mean()
    torch.testing.assert_close(
        negative_elbo(crops, decoded, mean, log_variance, 2.5), expected, rtol=1e-12, atol=0
    )


def test_bound_by_hand():
    crops, decoded = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    mean, log_variance = torch.tensor([[2.0]]), torch.tensor([[math.log(3.0)]])
    # 0.25 + 0.25, and (4 + 3 - 1 - log 3) / 2
    expected = 0.5 + 10 * (6 - math.log(3)) / 2
    assert float(negative_elbo(crops, decoded, mean, log_variance, 10)) == pytest.approx(expected)


def test_the_adversaries_want_the_opposite_of_the_unlabelled_and_agree_on_the_rest():
    labelled, unlabelled = torch.tensor([[0.3, -2.0, 5.0], [-40.0, 0.0, 1.0]], dtype=torch.float64)
    ones, zeros = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)

    def cross_entropy(logits, target):
        return F.binary_cross_entropy_with_logits(logits, target)

    torch.testing.assert_close(
        adversarial_loss(labelled, unlabelled),
        cross_entropy(labelled, ones) + cross_entropy(unlabelled, ones),
    )
    torch.testing.assert_close(
        discriminator_loss(labelled, unlabelled),
        cross_entropy(labelled, ones) + cross_entropy(unlabelled, zeros),
    )
    assert float(discriminator_loss(zeros, zeros)) == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize(("height", "width"), [(3, 4), (1, 1), (8, 2)])
def test_places_are_all_that_are_free_and_equally_likely(height, width):
    box, avoid = (2, 1, 13, 9), [(4, 3, 6, 5), (10, 0, 20, 2), (0, 0, 3, 30)]
    taken = np.zeros((30, 30), bool)
    for x0, y0, x1, y1 in avoid:
        taken[y0:y1, x0:x1] = True
    free = [
        (x, y, x + width, y + height)
        for y in range(1, 9 - height + 1)
        for x in range(2, 13 - width + 1)
        if not taken[y : y + height, x : x + width].any()
    ]
    generator = torch.Generator().manual_seed(0)
    draws = 200 * len(free)
    drawn = [place(box, avoid, height, width, generator) for _ in range(draws)]
    counts = np.array([drawn.count(where) for where in free])
    assert counts.sum() == draws  # nowhere else
    assert np.abs(counts - 200).max() < 5 * math.sqrt(200)


def test_no_place():
    generator = torch.Generator().manual_seed(0)
    assert place((0, 0, 10, 10), [(4, 0, 5, 10)], 3, 6, generator) is None
    assert place((0, 0, 10, 10), [(4, 0, 5, 10)], 10, 5, generator) == (5, 0, 10, 10)


def write(path, brightness, seed):
    """Noise around a brightness (H, W), in 8 bits."""
    rng = np.random.default_rng(seed)
    image = brightness[..., None] + rng.integers(-20, 21, (*brightness.shape, 3))
    cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six images: 0 and 1 dark, 2 and 3 dark with a bright right part, 4 bright, 5 dark."""
    root = tmp_path_factory.mktemp("images")
    for i in range(6):
        brightness = np.full((HEIGHT, WIDTH), 200 if i == 4 else 40)
        if i in {2, 3}:
            brightness[:, 64:] = 200
        write(root / f"{i}.png", brightness, i)
    return root


BOUGHT = {0: [(0, 0, WIDTH, HEIGHT)], 1: [(0, 0, 64, 64), (64, 0, WIDTH, 32)], 2: [(0, 0, 32, 32)]}


def make_scan(root, model, signal=SIGNAL, regions=REGIONS, bought=None, seed=3, **settings):
    pool, bought = open_pool(root), BOUGHT if bought is None else bought
    return Scan(
        pool=pool,
        task=Segmentation(),
        regions=[RegionSize.parse(r) for r in regions],
        settings=ScanSettings(device=torch.device("cpu"), **settings),
        signals=(signal,),
        model=model,
        labelled=bought,
        sets={
            "labelled": ImageSet(pool, inside=bought),
            "pool": ImageSet(pool, outside=bought),
        },
        seed=seed,
    )


def scores(folder, region):
    table = CandidateTable.open(folder / region)
    return table, table.values[SIGNAL.column]


@pytest.fixture(scope="module")
def scanned(folder, model, tmp_path_factory):
    """A scan, and what it noted."""
    out = tmp_path_factory.mktemp("scans") / "a"
    return out, make_scan(folder, model).run(out)


def test_what_looks_unlike_all_that_is_labelled_scores_lowest(scanned):
    out, [note] = scanned
    assert 60 < float(re.search(r"right about (\d+) %", note)[1]) <= 100
    table, values = scores(out, "32")
    bright = (table.image == 4) | (np.isin(table.image, (2, 3)) & (table.box[:, 0] >= 64))
    assert 0 < bright.sum() < len(table)
    assert values[bright].max() < values[~bright].min()
    assert (values >= 0).all()
    assert (values <= 1).all()
    _, images = scores(out, "image")
    assert max(images[[2, 3, 4]]) < min(images[[0, 1, 5]])
    # What is labelled is not measured.
    assert CandidateTable.open(out / LABELLED_FOLDER).values == {}


def test_picks_are_the_lowest(scanned):
    training = {"steps": 60, "batch_size": 8, "latent": 8, "crops": 48}
    strategy = STRATEGIES.get("vaal")(**training)
    [[signal]] = list(strategy.passes(PassContext()))
    assert signal == SIGNAL
    table, values = scores(scanned[0], "image")
    nothing = table.view(np.zeros(0, np.int64), np.zeros(0, np.int64))
    picks = strategy.select(table, nothing, 3, torch.Generator().manual_seed(0))
    assert picks.rows.tolist() == np.argsort(values, kind="stable")[:3].tolist()
    assert set(picks.rows.tolist()) == {2, 3, 4}  # those with something bright
    assert np.array_equal(picks.scores, values[picks.rows])


def test_neither_workers_nor_batches_nor_the_order_of_files_change_a_byte(folder, model, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in sorted(folder.iterdir(), reverse=True):
        shutil.copy(path, moved / path.name)
    signal = LooksLabelled(VaalTraining(steps=6, batch_size=4, latent=4), crops=20)
    runs = {
        "a": (folder, {}),
        "b": (moved, {"workers": 3, "batch_size": 4}),
        "c": (folder, {"workers": 0}),
        "other": (folder, {"seed": 4}),
    }
    found = {}
    for name, (root, settings) in runs.items():
        torch.manual_seed(len(found))  # torch's own random state plays no part
        make_scan(root, model, signal, **settings).run(tmp_path / name)
        found[name] = CandidateTable.open(tmp_path / name / "32").values[signal.column]
    assert np.array_equal(found["a"], found["b"])
    assert np.array_equal(found["a"], found["c"])
    assert not np.array_equal(found["a"], found["other"])


def test_the_random_state_of_torch_is_left_alone(folder, model):
    crops = torch.randint(256, (4, 3, SIDE, SIDE), dtype=torch.uint8)
    before = torch.get_rng_state()
    training = VaalTraining(steps=2, batch_size=2, latent=4)
    train_vaal(crops, crops, training, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def area_means(crop):
    """(SIDE, SIDE, 3): cell i is the mean of the pixels that it overlaps at all."""
    height, width = crop.shape[:2]
    rows, columns = (
        [(i * n // SIDE, -((-(i + 1) * n) // SIDE)) for i in range(SIDE)] for n in (height, width)
    )
    return np.array([[crop[y0:y1, x0:x1].mean((0, 1)) for x0, x1 in columns] for y0, y1 in rows])


def test_scores_equal_crops_that_are_cut_from_the_files_by_hand(folder, model):
    scan = make_scan(folder, model)
    signal = LooksLabelled(VaalTraining(steps=3, batch_size=4, latent=4), crops=8)
    bench = Bench(model, scan.task, SETTINGS, scan.sets, 0, scan.regions)
    meter = signal.prepare(bench)
    vaal = meter.vaal
    boxes = ((0, 0, WIDTH, HEIGHT), (3, 5, 40, 33), (80, 60, 101, 70))
    image = scan.pool.read(2)
    inputs = model.normalise(torch.from_numpy(image)[None])
    with torch.no_grad():
        evidence = model(inputs)
        evidence.inputs = inputs
        measured = meter.measure(evidence, Boxes(boxes))
        for column, (x0, y0, x1, y1) in enumerate(boxes):
            means = area_means(image[y0:y1, x0:x1].astype(np.float64) / 255)
            crop = torch.from_numpy(means).permute(2, 0, 1)[None].float()
            code = vaal.vae.mean(vaal.vae.encoder(crop))
            expected = torch.sigmoid(vaal.discriminator(code).double())
            torch.testing.assert_close(measured[0, column], expected[0], rtol=1e-5, atol=0)
    assert measured.dtype == torch.float64
    assert measured.shape == (1, 3)
