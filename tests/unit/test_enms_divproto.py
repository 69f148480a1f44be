"""ENMS and DivProto on boxes made by hand, and against plain loops."""

import doctest
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segal.candidates.regions import RegionSize
from segal.candidates.table import CandidateTable, box_pixels
from segal.functional import prototypes
from segal.functional.prototypes import binary_entropy, class_prototypes, entropy_nms
from segal.models.build import make_spec
from segal.models.wrapped import NoHeadError
from segal.signals.box_prototypes import BoxPrototypes, ClassScores, EntropyAfterNMS
from segal.strategies.enms_divproto import DiversePrototypes
from segal.tasks.detection.detectors.functions import CallableDetector
from segal.tasks.detection.evidence import DetectionEvidence, Detections
from segal.tasks.detection.model import DetectionModel
from segal.tasks.detection.signals import measured

HEIGHT, WIDTH = 40, 60
WHOLE = RegionSize.parse("image").grid(HEIGHT, WIDTH)
HALVES = RegionSize.parse("40x30").grid(HEIGHT, WIDTH)


def test_examples():
    result = doctest.testmod(prototypes)
    assert result.attempted > 0 and result.failed == 0


def h(p):
    return -sum(x * math.log(x) for x in (p, 1 - p) if x > 0)


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    norms = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return dot / norms if norms else 0.0


def nms_by_loops(entropy, classes, features, threshold):
    kept = []
    for i in sorted(range(len(entropy)), key=lambda i: (-entropy[i], i)):
        repeats = any(
            classes[i] == classes[j] and cosine(features[i], features[j]) > threshold for j in kept
        )
        if not repeats:
            kept.append(i)
    return kept


def test_entropies_by_the_definition():
    p = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0, 1.0000001])
    expected = [h(float(x)) for x in p[:5].double()] + [0.0]
    assert binary_entropy(p).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.5, 1.0])
def test_nms_by_loops(threshold):
    rng = np.random.default_rng(0)
    entropy = np.round(rng.random(40), 1)
    classes, features = rng.integers(0, 3, 40), rng.standard_normal((40, 3))
    features[7] = 0
    kept = entropy_nms(
        torch.from_numpy(entropy), torch.from_numpy(classes), torch.from_numpy(features), threshold
    )
    expected = nms_by_loops(entropy, classes, features.tolist(), threshold)
    assert kept.tolist() == expected
    none = torch.zeros(0)
    assert entropy_nms(none, none.long(), torch.zeros(0, 3), 0.5).tolist() == []


def test_prototypes_by_loops_and_without_entropy():
    rng = np.random.default_rng(1)
    features, weights = rng.standard_normal((12, 4)), rng.random(12)
    classes = rng.integers(0, 3, 12)
    weights[classes == 1] = 0
    found = class_prototypes(*map(torch.from_numpy, (features, weights, classes)), 4)
    for c in range(3):
        own = np.flatnonzero(classes == c)
        mass = [weights[i] if c != 1 else 1.0 for i in own]
        mean = sum(m * features[i] for m, i in zip(mass, own, strict=True)) / sum(mass)
        np.testing.assert_allclose(found[c], mean, atol=1e-12)
    assert (found[3] == 0).all()


# Two of the first class alike, the same features of the second class, and one unlike.
PROBABILITIES = [[0.6, 0.2], [0.9, 0.1], [0.1, 0.8], [0.7, 0.3]]
FEATURES = [[1.0, 0.0], [1.0, 0.2], [1.0, 0.1], [0.0, 1.0]]
CLASSES = [0, 0, 1, 0]
BOXES = [[0, 0, 10, 10], [5, 5, 9, 9], [10, 0, 20, 20], [40, 0, 50, 10]]


def found_of(rows=(0, 1, 2, 3)):
    rows = list(rows)
    probabilities = torch.tensor(PROBABILITIES)
    classes = torch.tensor(CLASSES)
    all_of = Detections(
        torch.tensor(BOXES).float(),
        probabilities,
        classes,
        probabilities.gather(1, classes[:, None])[:, 0],
        torch.tensor(FEATURES),
        torch.arange(4),
    )
    return all_of.keep(torch.tensor(rows, dtype=torch.int64))


def measure(signal, units, *found):
    model = SimpleNamespace(check_features=lambda: None)
    bench = SimpleNamespace(model=model, once=lambda _, compute: compute())
    evidence = DetectionEvidence(found, classes=2)
    return measured(signal).prepare(bench).measure(evidence, units)


def test_scores_by_hand():
    whole = measure(EntropyAfterNMS(), WHOLE, found_of(), found_of(()))
    # Of the first class .6 is the most uncertain: .9 repeats it, .7 does not.
    assert whole.dtype == torch.float64
    assert whole[:, 0].tolist() == pytest.approx([h(0.6) + h(0.8) + h(0.7), 0], abs=1e-6)
    left, right = measure(EntropyAfterNMS(), HALVES, found_of())[0].tolist()
    assert left == pytest.approx(h(0.6) + h(0.8), abs=1e-6)
    assert right == pytest.approx(h(0.7), abs=1e-6)
    everything = measure(EntropyAfterNMS(1.0), WHOLE, found_of()).item()
    assert everything == pytest.approx(h(0.6) + h(0.9) + h(0.8) + h(0.7), abs=1e-6)


def test_prototypes_and_class_scores_by_hand():
    found = measure(BoxPrototypes(), WHOLE, found_of(), found_of([1]))
    a, b = h(0.6), h(0.7)
    expected = [a / (a + b), b / (a + b), 1.0, 0.1]
    assert found.shape == (2, 1, 4)
    assert found[0, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert found[1, 0].tolist() == pytest.approx([1, 0.2, 0, 0], abs=1e-6)
    scores = measure(ClassScores(), HALVES, found_of(), found_of([3]), found_of(()))
    expected = [[[0.9, 0.8], [0.7, 0]], [[0, 0], [0.7, 0]], [[0, 0], [0, 0]]]
    torch.testing.assert_close(scores, torch.tensor(expected).double())


def test_a_detector_without_features_is_refused():
    spec = make_spec("tests.tiny_detectors:none", "", ("a", "b"), task="detection")
    answer = {"boxes": torch.tensor([[0.0, 0, 9, 9]]), "probabilities": torch.tensor([[0.5, 0.1]])}
    model = DetectionModel(CallableDetector(lambda _: [answer]), spec).eval()
    for signal in (EntropyAfterNMS(), BoxPrototypes()):
        with pytest.raises(NoHeadError, match="features"):
            measured(signal).check(model)


def table_of(scores, protos, shown, objects):
    count = len(scores)
    box = np.array([[0, 0, 4, 4]] * count, np.int32)
    embeddings = {
        "box_prototypes-0.5": np.reshape(protos, (count, -1)),
        "class_scores": shown,
        "labelled_objects": objects,
    }
    return CandidateTable(
        tuple(map(str, range(count))),
        np.arange(count, dtype=np.int32),
        box,
        box_pixels(box),
        {"entropy_nms-0.5": np.array(scores, np.float64)},
        {key: np.array(value, np.float32) for key, value in embeddings.items()},
    )


def labels_of(*counts):
    return table_of([0.0] * len(counts), np.zeros((len(counts), 1)), counts, counts)


def likeness(protos, picked):
    """M_g: of the class in which a candidate is least like the picks."""
    own = {c: x for c, x in enumerate(protos) if any(x)}
    if not own:
        return 1.0
    return min(
        max([cosine(x, p[c]) for p in picked if any(p[c])], default=0.0) for c, x in own.items()
    )


def picks_by_loops(scores, protos, shown, objects, count, intra, inter, alpha, beta):
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    classes = len(objects)
    rare = sorted(range(classes), key=lambda c: (objects[c], c))[: max(1, int(alpha * classes))]
    quota = dict.fromkeys(rare, beta * count / len(rare))
    picked = []
    for row in order:
        shows = [c for c in rare if shown[row][c] > inter]
        wanted = [c for c in shows if quota[c] > 0]
        if (
            len(picked) < count
            and wanted
            and likeness(protos[row], [protos[i] for i in picked]) < intra
        ):
            picked.append(row)
            for c in shows:
                quota[c] -= 1
    first = len(picked)
    for row in order:
        unlike = likeness(protos[row], [protos[i] for i in picked]) < intra
        if len(picked) < count and row not in picked and unlike:
            picked.append(row)
    second = len(picked) - first
    picked += [row for row in order if row not in picked]
    return picked[:count], first, second


@pytest.mark.parametrize("seed", range(6))
def test_picks_by_loops(seed):
    rng = np.random.default_rng(seed)
    rows, classes, count = 150, 4, 30
    shown = rng.random((rows, classes)) * (rng.random((rows, classes)) < 0.5)
    protos = rng.standard_normal((rows, classes, 3)).astype(np.float32)
    protos[shown == 0] = 0
    scores, objects = np.round(rng.random(rows), 2), rng.integers(0, 9, classes)
    settings = {"intra": 0.7 + 0.1 * (seed % 3), "inter": 0.3, "alpha": 0.5, "beta": 0.4}
    expected, first, second = picks_by_loops(
        scores, protos.tolist(), shown, objects, count, **settings
    )
    assert first > 5 and second > 0
    table = table_of(scores, protos, shown, np.zeros_like(shown))
    strategy = DiversePrototypes(**settings)
    picks = strategy.select(table, labels_of(objects), count, torch.Generator())
    assert picks.rows.tolist() == expected
    assert picks.scores.tolist() == scores[expected].tolist()


def test_stages_by_hand():
    a, b = [1.0, 0.0], [0.0, 1.0]
    none = [0.0, 0.0]
    protos = [[a, none], [a, none], [none, a], [none, b], [none, b], [none, none]]
    shown = [[0.9, 0], [0.8, 0], [0, 0.5], [0, 0.25], [0, 0.6], [0, 0]]
    table = table_of([9, 8, 7, 6, 5, 0], protos, shown, np.zeros((6, 2)))
    pick = DiversePrototypes().select
    few_of_second = labels_of([5, 1])
    # Rare is the second class. A share of 3 shows it: the third, and the fifth, since the fourth
    # does not show it above .3. Then the best that is unlike these, and what is left in order.
    picks = pick(table, few_of_second, 4, torch.Generator())
    assert picks.rows.tolist() == [2, 4, 0, 1] and not picks.notes
    # Of one pick three quarters are a share of one.
    assert pick(table, few_of_second, 1, torch.Generator()).rows.tolist() == [2]
    assert pick(table, few_of_second, 6, torch.Generator()).rows.tolist() == [2, 4, 0, 1, 3, 5]
    nothing = table.view(np.zeros(0, np.int64), np.zeros(0, np.int64))
    picks = pick(table, nothing, 4, torch.Generator())
    assert picks.rows.tolist() == [0, 2, 3, 1] and "Nothing is labelled" in picks.notes[0]
