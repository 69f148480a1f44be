"""VAAL: what it reads, which crops it trains on, how its networks take turns, and bad input."""

import copy

import numpy as np
import pytest
import torch

from segal.candidates.regions import RegionSize
from segal.data.image_sets import ImageSet
from segal.data.pool import ImagePool, open_pool
from segal.errors import SegalError
from segal.models import vaal as models
from segal.models.vaal import SIDE, VaalTraining, train_vaal
from segal.scanning.scan import ScanSettings
from segal.scanning.workbench import Bench
from segal.signals import Need
from segal.signals.crops import cut, draw_pairs
from segal.signals.vaal import LooksLabelled
from segal.tasks.segmentation.task import Segmentation
from tests.conftest import write_image

CPU = torch.device("cpu")
SMALL = VaalTraining(steps=2, batch_size=2, latent=4)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_crops_lie_in_their_sets_and_those_of_a_pair_are_of_one_candidate_size(image_folder):
    pool = open_pool(image_folder)  # sizes 70 x 101, 64 x 96 and 50 x 80
    bought = {0: [(0, 0, 101, 70)], 2: [(10, 5, 40, 60), (32, 32, 64, 64)], 5: [(0, 0, 16, 16)]}
    labelled, rest = ImageSet(pool, inside=bought), ImageSet(pool, outside=bought)
    regions = [RegionSize.parse("32"), RegionSize.parse("16x24")]
    pairs = draw_pairs(labelled, rest, regions, 600, generator())
    sizes = set()
    for (ours, a), (theirs, b) in pairs:
        assert any(
            x0 <= a[0] < a[2] <= x1 and y0 <= a[1] < a[3] <= y1 for x0, y0, x1, y1 in bought[ours]
        )
        height, width = pool.size(theirs)
        assert 0 <= b[0] < b[2] <= width
        assert 0 <= b[1] < b[3] <= height
        assert not any(overlap(b, box) for box in bought.get(theirs, ()))
        assert (a[2] - a[0], a[3] - a[1]) == (b[2] - b[0], b[3] - b[1])
        sizes.add((a[3] - a[1], a[2] - a[0]))
    assert {(32, 32), (16, 24)} < sizes
    # At the edges candidates are clipped, and the smallest labelled box cuts them down.
    edges = {(6, 32), (32, 5), (6, 24), (16, 5), (6, 5)}
    assert edges < sizes
    assert max(h for h, _ in sizes) <= 32
    assert max(w for _, w in sizes) <= 32
    # Every image with a pixel of a set is drawn from, in proportion to its pixels there.
    drawn = np.bincount([theirs for _, (theirs, _) in pairs], minlength=len(pool))
    free = np.array([rest.mask(i).sum() for i in range(len(pool))])
    expected = 600 * free / free.sum()
    assert drawn[0] == 0
    assert (np.abs(drawn - expected) <= 5 * np.sqrt(expected)).all()


def test_a_pool_with_scraps_only_gives_smaller_crops(image_folder):
    pool = open_pool(image_folder)
    bought = {i: [(0, 0, pool.size(i)[1], pool.size(i)[0])] for i in range(len(pool))}
    height, width = pool.size(1)
    bought[1] = [(0, 0, width, 60), (0, 63, width, height), (7, 60, width, 63)]  # 7 x 3 are left
    pairs = draw_pairs(
        ImageSet(pool, inside=bought),
        ImageSet(pool, outside=bought),
        [RegionSize()],
        20,
        generator(),
    )
    for _, (image, (x0, y0, x1, y1)) in pairs:
        assert image == 1
        assert 0 <= x0 < x1 <= 7
        assert 60 <= y0 < y1 <= 63


def test_an_image_is_read_once_however_many_crops_it_has(image_folder, model, monkeypatch):
    pool = open_pool(image_folder)
    bought = {0: [(0, 0, 101, 70)]}
    sets = {"labelled": ImageSet(pool, inside=bought), "pool": ImageSet(pool, outside=bought)}
    reads = []
    read = ImagePool.read
    monkeypatch.setattr(ImagePool, "read", lambda self, i: reads.append(i) or read(self, i))
    signal = LooksLabelled(SMALL, crops=100)
    bench = Bench(model, Segmentation(), ScanSettings(CPU), sets, 0, [RegionSize.parse("32")])
    signal.prepare(bench)
    assert reads == list(range(len(pool)))


def test_crops_of_16_bit_images_equal_those_of_8_bits(tmp_path):
    import cv2  # noqa: PLC0415

    image = write_image(tmp_path / "eight" / "a.png", 64, 80, 0)
    (tmp_path / "sixteen").mkdir()
    cv2.imwrite(str(tmp_path / "sixteen" / "a.png"), image[..., ::-1].astype(np.uint16) * 257)
    box = (3, 2, 70, 64)
    crops = [
        next(cut(ImageSet(open_pool(tmp_path / name)), [(0, box)], 0))[1]
        for name in ("eight", "sixteen")
    ]
    assert crops[0].shape == (1, 3, SIDE, SIDE)
    assert crops[0].dtype == torch.uint8
    assert (crops[0].int() - crops[1].int()).abs().max() <= 1


def test_nothing_labelled_or_nothing_unlabelled_is_said_so(image_folder, model):
    pool = open_pool(image_folder)
    everything = {i: [(0, 0, pool.size(i)[1], pool.size(i)[0])] for i in range(len(pool))}
    signal = LooksLabelled(SMALL, crops=4)
    for bought, message in (({}, "labelled regions: none"), (everything, "no pixel is unlabelled")):
        sets = {"labelled": ImageSet(pool, inside=bought), "pool": ImageSet(pool, outside=bought)}
        bench = Bench(model, Segmentation(), ScanSettings(CPU), sets, 0)
        with pytest.raises(SegalError, match=message):
            signal.prepare(bench)


def toy_crops():
    dark = torch.randint(0, 60, (8, 3, SIDE, SIDE), generator=generator(), dtype=torch.uint8)
    return dark, dark + 150


def test_a_training_that_diverges_is_said_so():
    training = VaalTraining(steps=5, batch_size=2, latent=4, vae_rate=1e12)
    with pytest.raises(SegalError, match="training diverged at step") as caught:
        train_vaal(*toy_crops(), training, generator(), CPU)
    assert "vae_rate" in caught.value.remedy


def test_either_network_is_trained_by_its_own_loss_alone():
    start = models._initial(4, generator(), CPU)
    frozen = VaalTraining(steps=3, batch_size=4, latent=4, discriminator_rate=0.0)
    end = train_vaal(*toy_crops(), frozen, generator(), CPU)
    before, after = start.discriminator.state_dict(), end.discriminator.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    moved = end.vae.state_dict()
    changed = [not torch.equal(v, moved[name]) for name, v in start.vae.state_dict().items()]
    assert all(changed)


def told_apart(adversary):
    """The discriminator's loss at the end, on crops that are easily told apart."""
    told = []
    training = VaalTraining(
        steps=60, batch_size=4, latent=4, adversary=adversary, discriminator_rate=5e-5
    )
    train_vaal(*toy_crops(), training, generator(), CPU, lambda *step: told.append(step))
    assert [(done, total) for done, total, _ in told] == [(i, 60) for i in range(1, 61)]
    return float(told[-1][2].split()[1])


@pytest.mark.slow
def test_the_vae_fools_the_discriminator_where_that_weighs_much():
    assert told_apart(0.0) < told_apart(1e5)


def test_gradients_are_those_of_the_objective_that_the_paper_states():
    """One step of the VAE's objective, against the paper's sums over the two sets apart."""
    vaal = models._initial(4, generator(), CPU)
    crops = torch.rand(6, 3, SIDE, SIDE, generator=generator(1))
    noise = torch.randn(6, 4, generator=generator(2))
    training = VaalTraining(latent=4, beta=3.0, adversary=7.0)
    found = models._vae_objective(vaal, crops, torch.empty(len(crops), 0), noise, training)
    expected = torch.zeros(())
    other = copy.deepcopy(vaal.vae)
    for half in (slice(0, 3), slice(3, 6)):
        mean, log_variance = other.encode(crops[half])
        decoded = other.decode(mean + noise[half] * log_variance.exp().sqrt())
        error = ((crops[half] - decoded) ** 2).sum() / 3
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum() / 3
        fooled = -vaal.discriminator(mean).sigmoid().log().mean()
        expected = expected + error + 3.0 * divergence + 7.0 * fooled
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    for ours, theirs in zip(vaal.vae.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)


def test_a_column_tells_apart_whatever_is_measured_otherwise():
    changed = {
        "steps": 7,
        "batch_size": 7,
        "latent": 7,
        "beta": 0.5,
        "adversary": 0.5,
        "vae_rate": 1e-3,
        "discriminator_rate": 2e-3,
    }
    signals = [LooksLabelled(), LooksLabelled(crops=7)]
    signals += [LooksLabelled(VaalTraining(**{name: value})) for name, value in changed.items()]
    columns = {signal.column for signal in signals}
    assert len(columns) == len(signals) == len(set(signals))
    assert all(column.startswith("vaal-") for column in columns)
    assert all(set(c) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") for c in columns)
    assert LooksLabelled().needs == {Need("labelled", False), Need("pool", False)}
    assert not LooksLabelled().of_labelled
