"""CDAL against brute force in float64."""

import copy

import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from segal.candidates.regions import RegionSize
from segal.candidates.table import CandidateTable
from segal.data.pool import open_pool
from segal.functional.divergence import (
    FLOOR,
    class_profile,
    class_profile_distances,
    class_profile_k_center,
    symmetric_kl,
)
from segal.scanning.scan import LABELLED_FOLDER, Scan, ScanSettings
from segal.signals.class_profiles import ClassProfiles
from segal.strategies.cdal import CDAL
from segal.tasks.segmentation.task import Segmentation


def random_profiles(n, classes, seed=0, absent=0.4, sharpness=3.0):
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.standard_normal((n, classes, classes))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    p[rng.random((n, classes)) < absent] = 0.0
    return torch.from_numpy(p)


def floored(p):
    p = np.maximum(np.asarray(p, np.float64), FLOOR)
    return p / p.sum()


def brute_distance(one, other):
    """METHODS: mean over the classes that are present in either; uniform where absent."""
    classes = len(one)
    uniform = np.full(classes, 1 / classes)
    total, count = 0.0, 0
    for a, b in zip(np.asarray(one), np.asarray(other), strict=True):
        if not a.any() and not b.any():
            continue
        p, q = (floored(x) if x.any() else uniform for x in (a, b))
        total += rel_entr(p, q).sum() + rel_entr(q, p).sum()
        count += 1
    return total / max(count, 1)


def brute_greedy(distances, k, to_centers=None, to_nothing=None):
    """The textbook loop, lowest row first among equals."""
    nearest = np.full(len(distances), np.inf) if to_centers is None else to_centers.min(1)
    picks, values = [], []
    while len(picks) < k:
        score = np.array(nearest if np.isfinite(nearest).all() else to_nothing)
        score[picks] = -1
        best = int(score.argmax())
        picks.append(best)
        values.append(score[best])
        nearest = np.minimum(nearest, distances[:, best])
    return picks, np.array(values)


def brute_distances(profiles, others):
    return np.array([[brute_distance(a, b) for b in others] for a in profiles])


def test_symmetric_kl_against_scipy():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet([0.5] * 6, 50), rng.dirichlet([0.5] * 6, 50)
    ours = symmetric_kl(torch.from_numpy(p), torch.from_numpy(q))
    p, q = (np.array([floored(row) for row in x]) for x in (p, q))
    expected = rel_entr(p, q).sum(1) + rel_entr(q, p).sum(1)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    assert symmetric_kl(ours.new_tensor([1.0, 0]), ours.new_tensor([0.0, 1])) == pytest.approx(
        2 * (1 - 2 * FLOOR / (1 + FLOOR)) * np.log(1 / FLOOR)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_distances_against_brute_force(dtype):
    profiles = random_profiles(20, 5).to(dtype)
    others = random_profiles(15, 5, seed=1).to(dtype)
    others[3], profiles[4] = 0, 0  # no class at all
    others[5] = profiles[5]
    others[6] = profiles[6] * (1 + (1e-6 if dtype != torch.float16 else 0))
    ours = class_profile_distances(profiles, others)
    assert ours.dtype == torch.float64
    np.testing.assert_allclose(ours, brute_distances(profiles, others), rtol=1e-11, atol=1e-18)
    assert ours[5, 5] == 0
    assert ours[4, 3] == 0


def test_near_candidates_are_told_apart_in_all_their_digits():
    profiles = random_profiles(30, 4, absent=0.2)
    tilt = torch.linspace(-1e-9, 1e-9, 4, dtype=torch.float64)
    others = profiles * (1 + tilt)
    ours = class_profile_distances(profiles, others).diagonal()
    expected = [brute_by_difference(a, b) for a, b in zip(profiles, others, strict=True)]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    assert (ours[profiles.any(-1).any(-1)] > 0).all()


def brute_by_difference(one, other):
    classes = [c for c in range(len(one)) if one[c].any() or other[c].any()]
    pairs = [(floored(one[c]), floored(other[c])) for c in classes]
    return np.mean([((p - q) * np.log1p((p - q) / q)).sum() for p, q in pairs]) if pairs else 0.0


def test_the_absent_class_counts_against_the_uniform_distribution():
    a = torch.tensor([[0.9, 0.1], [0.0, 0.0]])
    b = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    uniform = torch.tensor([0.5, 0.5])
    ours = class_profile_distances(a[None], b[None])[0, 0]
    assert ours == pytest.approx(float(symmetric_kl(b[1], uniform)) / 2, rel=1e-12)
    # Absent from both: the mean is over one class.
    c = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    ours = class_profile_distances(a[None], c[None])[0, 0]
    assert ours == pytest.approx(float(symmetric_kl(a[0], uniform)), rel=1e-12)


@pytest.mark.parametrize("block", [1, 3, 16, 256])
@pytest.mark.parametrize("centers", [0, 1, 40])
@pytest.mark.parametrize("classes", [2, 6])
def test_picks_equal_the_textbook_loop(block, centers, classes):
    profiles = random_profiles(150, classes, seed=classes)
    profiles[77:90] = profiles[3:16]  # exact duplicates
    given = random_profiles(centers, classes, seed=9)
    picks, distance = class_profile_k_center(profiles, 150, given, block)
    between = brute_distances_fast(profiles, profiles)
    expected, values = brute_greedy(
        between,
        150,
        brute_distances_fast(profiles, given) if centers else None,
        brute_distances_fast(profiles, torch.zeros(1, classes, classes))[:, 0],
    )
    assert sorted(picks.tolist()) == list(range(150))
    np.testing.assert_allclose(distance, values, rtol=1e-10, atol=1e-18)
    certain = int((values > 0).sum())
    assert certain <= 137
    # Duplicates may stand in for each other.
    _, same = np.unique(profiles.flatten(1).numpy(), axis=0, return_inverse=True)
    assert same[picks[:certain]].tolist() == same[expected[:certain]].tolist()
    assert picks[certain:].tolist() == sorted(picks[certain:].tolist())


@pytest.mark.parametrize("seed", range(5))
def test_picks_equal_the_textbook_loop_index_for_index(seed):
    profiles, given = random_profiles(200, 5, seed), random_profiles(10, 5, seed + 100)
    picks, _ = class_profile_k_center(profiles, 200, given, block=32)
    to_given = brute_distances_fast(profiles, given)
    assert (
        picks.tolist() == brute_greedy(brute_distances_fast(profiles, profiles), 200, to_given)[0]
    )


def brute_distances_fast(profiles, others):
    """As `brute_distances`, in NumPy, by the differences themselves."""
    classes = profiles.shape[-1]

    def filled(x):
        x = x.double().numpy()
        p = np.maximum(x, FLOOR)
        p = p / p.sum(-1, keepdims=True)
        present = x.any(-1)
        return np.where(present[..., None], p, 1 / classes), present

    (p, has), (q, have) = filled(profiles), filled(others)
    apart = ((p[:, None] - q[None]) * (np.log(p)[:, None] - np.log(q)[None])).sum((-1, -2))
    return apart / np.maximum((has[:, None] | have[None]).sum(-1), 1)


def test_the_fast_oracle_is_the_slow_one():
    profiles, others = random_profiles(12, 4), random_profiles(9, 4, seed=1)
    profiles[2], others[1] = 0, 0
    slow, fast = brute_distances(profiles, others), brute_distances_fast(profiles, others)
    np.testing.assert_allclose(fast, slow, rtol=1e-11, atol=1e-15)


def test_many_candidates_that_are_all_alike():
    profiles = random_profiles(1, 3).expand(700, 3, 3).clone()
    profiles[600] = torch.eye(3)
    picks, distance = class_profile_k_center(profiles, 700, profiles[:1], block=8)
    assert picks.tolist() == [600, *(i for i in range(700) if i != 600)]
    assert (distance[1:] == 0).all()


def test_few_picks_are_the_first_of_many_and_bad_input_is_refused():
    profiles = random_profiles(300, 5).float()
    many, _ = class_profile_k_center(profiles, 200, block=32)
    few, _ = class_profile_k_center(profiles, 20, block=32)
    assert torch.equal(few, many[:20])
    for k in (0, 301):
        with pytest.raises(ValueError, match="k: expected 1 to 300"):
            class_profile_k_center(profiles, k)
    with pytest.raises(ValueError, match=r"expected \(n, C, C\)"):
        class_profile_k_center(profiles[:, :3], 3)
    profiles[7, 1, 1] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        class_profile_k_center(profiles, 3)


def brute_profile(p, predicted, classes):
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(0)
    profile = np.zeros((classes, classes))
    for c in range(classes):
        here = predicted == c
        if here.any():
            weight = entropy[here] if entropy[here].sum() > 0 else np.ones(here.sum())
            profile[c] = (weight * p[:, here]).sum(1) / weight.sum()
    return profile


def test_profile_of_certain_pixels_is_the_plain_mean():
    p = np.array([[1.0, 1.0, 0.3, 0.1], [0.0, 0.0, 0.6, 0.8], [0.0, 0.0, 0.1, 0.1]])
    predicted = p.argmax(0)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(0)
    ours = class_profile(*map(torch.from_numpy, (p, entropy, predicted)))
    np.testing.assert_allclose(ours, brute_profile(p, predicted, 3), rtol=1e-14)
    assert ours[0].tolist() == [1, 0, 0]
    assert ours[2].tolist() == [0, 0, 0]


def test_profile_of_many_pixels():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([0.3] * 4, 70_001).T
    p[:, ::3] = np.eye(4)[:, [2]]  # class 2 is certain here
    p[:, p.argmax(0) == 3] = np.eye(4)[:, [3]]  # and class 3 everywhere
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(0)
    predicted = p.argmax(0)
    ours = class_profile(*map(torch.from_numpy, (p, entropy, predicted)))
    np.testing.assert_allclose(ours, brute_profile(p, predicted, 4), rtol=1e-12)


@pytest.fixture(scope="module")
def varied(model):
    """The shared network predicts one class on most of an image; spread its logits."""
    spread = copy.deepcopy(model)
    with torch.no_grad():
        spread.head.weight.mul_(8.0)
        features = spread(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
        spread.head.bias.sub_(features.logits.mean((0, 2, 3)))
    return spread


def run(pool, model, folder, labelled=None, **settings):
    Scan(
        pool=pool,
        task=Segmentation(),
        regions=[RegionSize.parse("32"), RegionSize.parse("image")],
        settings=ScanSettings(device=torch.device("cpu"), **settings),
        signals=[ClassProfiles()],
        model=model,
        labelled=labelled or {},
    ).run(folder)
    return {n: CandidateTable.open(folder / n) for n in ("32", "image", LABELLED_FOLDER)}


def test_a_scan_equals_brute_force(image_folder, varied, tmp_path):
    pool = open_pool(image_folder).subset([0, 2, 5])
    tables = run(pool, varied, tmp_path / "a", labelled={1: [(3, 5, 40, 33), (32, 0, 64, 32)]})
    seen = set()
    for table in tables.values():
        for row in range(len(table)):
            image = torch.from_numpy(pool.read(table.image[row]).copy())[None]
            with torch.no_grad():
                logits = varied(varied.normalise(image)).logits[0]
            x0, y0, x1, y1 = table.box[row]
            inside = logits[:, y0:y1, x0:x1].flatten(1)
            p = inside.double().softmax(0).numpy()
            predicted = inside.argmax(0).numpy()
            seen.add(len(np.unique(predicted)))
            profile = brute_profile(p, predicted, 5)
            ours = table.embedding("class_profiles")[row].reshape(5, 5)
            np.testing.assert_allclose(ours, profile, rtol=2e-4, atol=1e-6)
            assert ours.sum(1) == pytest.approx((profile.sum(1) > 0).astype(float), abs=1e-5)
    assert len(seen) >= 3


def test_picks_of_a_scan_equal_the_textbook_loop(image_folder, varied, tmp_path):
    pool = open_pool(image_folder)
    tables = run(pool, varied, tmp_path / "a", labelled={0: [(0, 0, 40, 40)]}, batch_size=2)
    table, labelled = tables["32"], tables[LABELLED_FOLDER]
    picks = CDAL().select(table, labelled, len(table), torch.Generator())

    def square(t):
        return torch.from_numpy(t.embedding("class_profiles").reshape(-1, 5, 5))

    between = brute_distances_fast(square(table), square(table))
    expected, values = brute_greedy(
        between, len(table), brute_distances_fast(square(table), square(labelled))
    )
    assert picks.rows.tolist() == expected
    np.testing.assert_allclose(picks.scores, values, rtol=1e-9)
    assert picks.notes == ()
    nothing = labelled.view(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert "farthest" in CDAL().select(table, nothing, 3, torch.Generator()).notes[0]


def test_half_precision_profiles_pick_nearly_the_same(image_folder, varied, tmp_path):
    pool = open_pool(image_folder)
    full = run(pool, varied, tmp_path / "a")["32"]
    half = run(pool, varied, tmp_path / "b", embedding_dtype="float16")["32"]
    distances = [
        class_profile_distances(x, x)
        for x in (
            torch.from_numpy(t.embedding("class_profiles").reshape(-1, 5, 5)) for t in (full, half)
        )
    ]
    np.testing.assert_allclose(*distances, rtol=0.02, atol=1e-4)
