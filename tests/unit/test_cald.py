"""CALD on boxes made by hand, its views on a detector of bright patches, its picks by loops."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from segal.candidates.regions import RegionSize
from segal.candidates.table import CandidateTable, box_pixels
from segal.errors import SegalError
from segal.functional.divergence import jensen_shannon
from segal.models.build import make_spec
from segal.signals.labelled_objects import LabelledObjects
from segal.signals.view_consistency import ViewClasses, ViewConsistency
from segal.strategies.cald import ConsistencyBased
from segal.tasks.detection.detectors.functions import CallableDetector
from segal.tasks.detection.model import DetectionModel
from segal.tasks.detection.objects import Objects
from segal.tasks.detection.signals import measured
from segal.tasks.detection.signals.views import (
    VIEWS,
    carried,
    inverse,
    seeded,
    view_matrix,
    view_of,
    view_size,
)
from tests.tiny_detectors import build
from tests.tiny_detectors import images as noise_images

SPEC = make_spec("tests.tiny_detectors:none", "", ("a", "b"), task="detection")
HEIGHT, WIDTH = 40, 60
WHOLE = RegionSize.parse("image").grid(HEIGHT, WIDTH)
HALVES = RegionSize.parse("40x30").grid(HEIGHT, WIDTH)
BLACK = -torch.tensor(SPEC.mean)[:, None, None] / torch.tensor(SPEC.std)[:, None, None]


def bench_of(model=None, seed=0, labelled=None):
    return SimpleNamespace(
        model=model,
        seed=seed,
        precision="fp32",
        once=lambda _, compute: compute(),
        images=lambda _: labelled,
    )


def measure(signal, evidence, units, model, seed=0):
    return measured(signal).prepare(bench_of(model, seed)).measure(evidence, units)


def evidence_of(model, images, paths=("a.png",)):
    with torch.no_grad():
        evidence = model(images)
    evidence.inputs, evidence.images = images, tuple(paths)
    return evidence


def replies(*answers):
    """A detector that says one thing after another: boxes and probabilities."""
    left = list(answers)

    def detect(_):
        boxes, probabilities = left.pop(0)
        return [
            {
                "boxes": torch.tensor(boxes).reshape(-1, 4),
                "probabilities": torch.tensor(probabilities).reshape(-1, 2),
            }
        ]

    return DetectionModel(CallableDetector(detect), SPEC).eval()


def turned_by_hand(x, y):
    """Where a point of the image is once it is turned by 5 degrees against the clock."""
    cos, sin = math.cos(math.radians(5)), math.sin(math.radians(5))
    wide, high = WIDTH * cos + HEIGHT * sin, HEIGHT * cos + WIDTH * sin
    dx, dy = x - WIDTH / 2, y - HEIGHT / 2
    x, y = cos * dx + sin * dy + wide / 2, -sin * dx + cos * dy + high / 2
    return x * WIDTH / wide, y * HEIGHT / high


def around(points):
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


P, Q = [0.7, 0.2], [0.1, 0.6]
BOX = [10.0, 10.0, 30.0, 30.0]
TURNED = around([turned_by_hand(x, y) for x in (10, 30) for y in (10, 30)])
FOUND = ([BOX, [40.0, 0.0, 50.0, 10.0]], [P, [0.5, 0.4]])
IN_VIEWS = (
    ([[30.0, 10.0, 50.0, 30.0], [10.0, 0.0, 20.0, 10.0]], [P, [0.5, 0.4]]),  # mirrored: the same
    ([], []),  # cut out: nothing
    ([[8.0, 8.0, 24.0, 16.0]], [Q]),  # shrunk: half of the first, none of the second
    ([TURNED], [P]),
)


def test_divergences_are_those_of_scipy():
    rng = np.random.default_rng(0)
    p, q = rng.random((2, 50, 4))
    q[0], p[0] = [0, 0, 0, 2], [1, 0, 0, 0]
    expected = jensenshannon(p, q, axis=1) ** 2
    found = jensen_shannon(torch.from_numpy(p), torch.from_numpy(q))
    np.testing.assert_allclose(found, expected, atol=1e-14)
    assert found[0].item() == pytest.approx(math.log(2))
    assert jensen_shannon(torch.from_numpy(p), torch.from_numpy(p)).max() < 1e-15


@pytest.mark.parametrize("base", [1.3, 0.4])
def test_consistency_by_hand(base):
    model = replies(FOUND, *IN_VIEWS)
    evidence = evidence_of(model, torch.zeros(1, 3, HEIGHT, WIDTH))
    value = measure(ViewConsistency(base), evidence, WHOLE, model)
    apart = jensenshannon(P, Q) ** 2
    other = jensenshannon([0.5, 0.4], Q) ** 2
    # The second box overlaps nothing where it was shrunk or turned: its counterpart is the first.
    third = jensenshannon([0.5, 0.4], P) ** 2
    consistencies = {
        "mirrored": [1 + 0.7, 1 + 0.5],
        "shrunk": [0.5 + 0.65 * (1 - apart), 0 + 0.55 * (1 - other)],
        "turned": [1 + 0.7, 0 + 0.6 * (1 - third)],
    }
    least = [min(abs(m - base) for m in each) for each in consistencies.values()]
    assert value.shape == (1, 1) and value.dtype == torch.float64
    assert value.item() == pytest.approx((sum(least) + 0) / 4, abs=1e-6)


def test_a_tile_is_judged_by_its_own_boxes_and_one_without_any_comes_last():
    model = replies(FOUND, *IN_VIEWS)
    evidence = evidence_of(model, torch.zeros(1, 3, HEIGHT, WIDTH))
    left, right = measure(ViewConsistency(1.3), evidence, HALVES, model)[0].tolist()
    apart = jensenshannon(P, Q) ** 2
    assert left == pytest.approx((0.4 + 0 + abs(0.65 * (1 - apart) - 0.8) + 0.4) / 4, abs=1e-6)
    assert right != left
    rows = RegionSize.parse("1x60").grid(HEIGHT, WIDTH)
    values = measure(ViewConsistency(1.3), evidence, rows, model)[0]
    assert (values == 1.3).sum() == HEIGHT - 2
    empty = replies(([], []), *[([BOX], [P])] * 4)
    evidence = evidence_of(empty, torch.zeros(1, 3, HEIGHT, WIDTH))
    assert measure(ViewConsistency(0.5), evidence, WHOLE, empty).item() == 1.5


def test_one_class_is_object_or_not():
    spec = make_spec("tests.tiny_detectors:none", "", ("a",), task="detection")
    left = [[0.9], [0.2], [0.2], [0.2], [0.2]]
    model = DetectionModel(
        CallableDetector(
            lambda x: [
                {
                    "boxes": torch.tensor([[0.0, 0.0, x.shape[3], x.shape[2]]]),
                    "probabilities": torch.tensor([left.pop(0)]),
                }
            ]
        ),
        spec,
    ).eval()
    evidence = evidence_of(model, torch.zeros(1, 3, HEIGHT, WIDTH))
    apart = jensenshannon([0.9, 0.1], [0.2, 0.8]) ** 2
    value = measure(ViewConsistency(1.3), evidence, WHOLE, model).item()
    assert value == pytest.approx(abs(1 + 0.55 * (1 - apart) - 1.3), abs=1e-6)


def test_classes_are_the_highest_scores_over_the_image_and_its_views():
    model = replies(FOUND, *IN_VIEWS)
    evidence = evidence_of(model, torch.zeros(1, 3, HEIGHT, WIDTH))
    whole = measure(ViewClasses(), evidence, WHOLE, model)
    assert whole.shape == (1, 1, 2) and whole.dtype == torch.float64
    expected = [(0.7 + 0.7 + 0 + 0 + 0.7) / 5, 0.6 / 5]
    assert whole[0, 0].tolist() == pytest.approx(expected, abs=1e-6)
    left, right = measure(ViewClasses(), evidence, HALVES, model)[0].tolist()
    assert left == pytest.approx(expected, abs=1e-6)
    assert right == pytest.approx([(0.5 + 0.5) / 5, 0], abs=1e-6)


def bright_patch(images):
    """Finds what is far above black."""
    bright = images[0, 0] > 1.5
    ys, xs = bright.nonzero(as_tuple=True)
    box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    return [{"boxes": torch.tensor([box]).float(), "probabilities": torch.tensor([[0.3, 0.6]])}]


def test_views_show_boxes_where_they_are_carried_to():
    size = (120, 170)
    image = BLACK.expand(3, *size).clone()
    patch = torch.tensor([[20.0, 10.0, 90.0, 50.0]])
    image[:, 10:50, 20:90] = 4.0
    for name in VIEWS:
        picture = view_of(name, image, patch, BLACK, seeded(0, "a", name))
        assert picture.shape[1:] == view_size(name, size)
        box = carried(patch, view_matrix(name, size), view_size(name, size))
        if name == "cut_out":
            assert torch.equal(box, patch.double())
            continue
        found = bright_patch(picture[None])[0]["boxes"]
        torch.testing.assert_close(found.double(), box, rtol=0, atol=1.1)
        back = carried(box, inverse(view_matrix(name, size)))
        middle = (back[:, :2] + back[:, 2:]) / 2
        torch.testing.assert_close(middle, torch.tensor([[55.0, 30.0]]).double())
    model = DetectionModel(CallableDetector(bright_patch), SPEC).eval()
    evidence = evidence_of(model, image[None])
    value = measure(
        ViewConsistency(0.0), evidence, RegionSize.parse("image").grid(*size), model
    ).item()
    assert 1.5 < value <= 1.6 + 1e-6  # a base of 0 leaves the consistency itself


def test_black_uncovered_by_turning_and_by_cutting():
    image = torch.ones(3, HEIGHT, WIDTH)
    boxes = torch.tensor([BOX])
    turned = view_of("turned", image, boxes, BLACK, None)
    torch.testing.assert_close(turned[:, 0, 0], BLACK[:, 0, 0])
    torch.testing.assert_close(turned[:, 20, 30], torch.ones(3))
    sizes = set()
    for path in "abcdefghij":
        cut = view_of("cut_out", image, boxes, BLACK, seeded(0, path, "cut_out"))
        again = view_of("cut_out", image, boxes, BLACK, seeded(0, path, "cut_out"))
        assert torch.equal(cut, again)
        gone = (cut == BLACK).all(0)
        assert ((cut == 1).all(0) | gone).all()
        covered = gone[10:30, 10:30].float().mean().item()
        assert covered <= 2 * 0.4  # at most two cuts, each of at most 40 %
        sizes.add(int(gone.sum()))
    assert len(sizes) > 5 and max(sizes) <= 2 * 12 * 8 + 40
    nothing = view_of("cut_out", image, boxes[:0], BLACK, seeded(0, "a", "cut_out"))
    assert torch.equal(nothing, image)


@torch.no_grad()
def test_an_image_is_measured_as_alone():
    model = build("ssd")
    images = noise_images(2, (64, 80))
    units = RegionSize.parse("32").grid(64, 80)
    together = evidence_of(model, images, ("a.png", "b.png"))
    alone = evidence_of(model, images[1:], ("b.png",))
    for signal in (ViewConsistency(), ViewClasses()):
        both = measure(signal, together, units, model)
        assert torch.equal(both[1:], measure(signal, alone, units, model))
        assert not torch.equal(both[0], both[1])
        other = measure(signal, evidence_of(model, images[1:], ("b.png",)), units, model, seed=1)
        assert not torch.equal(both[1:], other), "cuts are the seed's"


def labelled_set(**objects):
    paths = ("a.png", "b.png", "c.png")
    return SimpleNamespace(
        dataset=object(),
        pool=SimpleNamespace(paths=paths),
        indices=lambda: [i for i, path in enumerate(paths) if path[0] in objects],
        label=lambda i: objects[paths[i][0]],
    )


def test_labelled_objects_are_counted_where_they_are_bought():
    boxes = np.array([BOX, BOX, [50, 0, 60, 10], [40, 0, 50, 10]], np.float64)
    crowd = np.array([False, False, False, True])
    objects = Objects(boxes, np.array([1, 1, 0, 0]), crowd, ((0, 0, WIDTH, HEIGHT),))
    model = replies(FOUND, FOUND)
    evidence = evidence_of(model, torch.zeros(2, 3, HEIGHT, WIDTH), ("a.png", "b.png"))
    bench = bench_of(model, labelled=labelled_set(b=objects))
    signal = measured(LabelledObjects())
    counts = signal.prepare(bench).measure(evidence, HALVES)
    assert counts.tolist() == [[[0, 0], [0, 0]], [[0, 2], [1, 0]]]
    unknown = labelled_set(b=objects)
    unknown.dataset = None
    with pytest.raises(SegalError, match="their labels are unknown"):
        signal.prepare(bench_of(model, labelled=unknown))


def table_of(consistency, classes, objects):
    count = len(consistency)
    box = np.array([[0, 0, 4, 4]] * count, np.int32)
    embeddings = {"view_classes": classes, "labelled_objects": objects}
    return CandidateTable(
        tuple(map(str, range(count))),
        np.arange(count, dtype=np.int32),
        box,
        box_pixels(box),
        {"view_consistency-1.3": np.array(consistency)},
        {key: np.array(value, np.float32) for key, value in embeddings.items()},
    )


def softmax(x):
    e = [math.exp(v) for v in x]
    return [v / sum(e) for v in e]


@pytest.mark.parametrize(("delta", "count"), [(1.2, 10), (1.2, 4), (1.0, 7), (3.0, 12), (50.0, 9)])
def test_picks_by_loops(delta, count):
    rng = np.random.default_rng(count)
    consistency = np.round(rng.random(30), 1)
    table = table_of(consistency, rng.random((30, 3)), np.zeros((30, 3)))
    objects = rng.integers(0, 4, (8, 3))
    labelled = table_of(np.zeros(8), np.zeros((8, 3)), objects)
    kept = sorted(range(30), key=lambda row: (consistency[row], row))[
        : int(delta * 100) * count // 100
    ]
    mean = softmax(objects.mean(0))
    classes = table.embeddings["view_classes"]
    apart = {row: jensenshannon(mean, softmax(map(float, classes[row]))) for row in kept}
    expected = sorted(kept, key=lambda row: -apart[row])[:count]
    strategy = ConsistencyBased(delta=delta)
    picks = strategy.select(table, labelled, count, torch.Generator())
    assert picks.rows.tolist() == expected
    assert picks.scores.tolist() == consistency[expected].tolist() and not picks.notes
    if delta == 1:
        assert set(expected) == set(sorted(range(30), key=lambda r: (consistency[r], r))[:count])


def test_classes_that_labels_have_least_of_are_picked():
    table = table_of([0.1, 0.1, 0.1], [[0.9, 0], [0, 0.9], [0.2, 0.2]], np.zeros((3, 2)))
    many_of_first = table_of([0.0], [[0, 0]], [[5, 0]])
    pick = ConsistencyBased(delta=3.0).select
    assert pick(table, many_of_first, 1, torch.Generator()).rows.tolist() == [1]
    many_of_second = table_of([0.0], [[0, 0]], [[0, 5]])
    assert pick(table, many_of_second, 1, torch.Generator()).rows.tolist() == [0]
    nothing = table.view(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert "Nothing is labelled yet" in pick(table, nothing, 1, torch.Generator()).notes[0]
