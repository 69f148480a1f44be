"""Mean average precision of boxes: by pycocotools, and by loops in float64 beside it."""

import numpy as np
import pytest

from segal.tasks.detection.evaluation import BOX_PRECISION, DetectionEvaluation, Found
from segal.tasks.detection.objects import Objects

NAMES = ("cell", "rod", "dot")
IOUS = np.arange(10, 20) / 20
ONE = 1 << 32


def objects(rows, crowd=()):
    boxes = np.array([row[:4] for row in rows], float).reshape(-1, 4)
    classes = np.array([row[4] for row in rows], np.int64)
    crowds = np.array([i in crowd for i in range(len(rows))], bool)
    return Objects(boxes, classes, crowds, ((0, 0, 100, 100),))


def found(rows):
    boxes = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    classes = np.array([row[4] for row in rows], np.int64)
    return Found(boxes, classes, np.array([row[5] for row in rows], np.float32))


def evaluation(detections, truths, names=NAMES):
    images = [f"{i}.png" for i in range(len(truths))]
    return DetectionEvaluation.of(names, images, detections, truths)


def overlap(one, other, crowd):
    x0, y0 = max(one[0], other[0]), max(one[1], other[1])
    x1, y1 = min(one[2], other[2]), min(one[3], other[3])
    both = max(x1 - x0, 0) * max(y1 - y0, 0)
    own, its = ((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return both / (own if crowd else own + its - both) if both else 0.0


def precision_by_loops(detections, truths, name, iou):
    """COCO's definition, one detection at a time."""
    marks, count = [], 0
    for image, (seen, truth) in enumerate(zip(detections, truths, strict=True)):
        real = [i for i in range(len(truth)) if truth.classes[i] == name]
        count += sum(not truth.crowd[i] for i in real)
        taken = set()
        rows = [i for i in range(len(seen.classes)) if seen.classes[i] == name]
        for i in sorted(rows, key=lambda i, s=seen: -s.scores[i]):
            box = seen.boxes[i].astype(float)
            over = {j: overlap(box, truth.boxes[j], truth.crowd[j]) for j in real}
            free = [j for j in real if not truth.crowd[j] and j not in taken and over[j] >= iou]
            if free:
                taken.add(max(free, key=lambda j: (over[j], j)))
                marks.append((-seen.scores[i], image, True))
            elif not any(truth.crowd[j] and over[j] >= iou for j in real):
                marks.append((-seen.scores[i], image, False))
    if not count:
        return np.nan
    marks.sort(key=lambda mark: mark[0])
    right = np.cumsum([mark[2] for mark in marks])
    points = [(r / count, r / (i + 1)) for i, r in enumerate(right)]
    levels = [max([p for r, p in points if r >= level], default=0) for level in RECALLS]
    return float(np.mean(levels))


RECALLS = np.linspace(0, 1, 101)


def random_case(seed, images=12, most=9):
    """Objects, and detections that are near them, wrong in class, double, or nowhere."""
    rng = np.random.default_rng(seed)
    detections, truths = [], []
    for _ in range(images):
        count = rng.integers(0, most)
        near = rng.uniform(0, 80, (count, 2))
        boxes = np.hstack([near, near + rng.uniform(3, 30, (count, 2))])
        classes = rng.integers(0, 2, count)
        crowd = set(np.flatnonzero(rng.random(count) < 0.2))
        truths.append(objects([(*b, c) for b, c in zip(boxes, classes, strict=True)], crowd))
        rows = []
        for box, name in zip(boxes, classes, strict=True):
            for _ in range(rng.integers(0, 3)):
                moved = box + rng.normal(0, rng.choice([0.1, 2, 6]), 4)
                low, high = np.minimum(moved[:2], moved[2:]), np.maximum(moved[:2], moved[2:])
                shown = name if rng.random() < 0.8 else 1 - name
                rows.append((*low, *high, shown, rng.random()))
        for _ in range(rng.integers(0, 3)):
            x, y = rng.uniform(0, 80, 2)
            rows.append((x, y, x + 10, y + 10, rng.integers(0, 2), rng.random()))
        detections.append(found(rows))
    return detections, truths


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_against_loops(seed):
    detections, truths = random_case(seed)
    metrics = evaluation(detections, truths).metrics
    table = np.array(
        [[precision_by_loops(detections, truths, c, iou) for iou in IOUS] for c in range(3)]
    )
    assert np.allclose(list(metrics.ap.values()), table[:, 0], atol=1e-12, equal_nan=True)
    means = table.mean(1)
    assert np.allclose(list(metrics.ap_50_95.values()), means, atol=1e-12, equal_nan=True)
    assert metrics.map_50 == pytest.approx(np.nanmean(table[:, 0]), abs=1e-12)
    assert metrics.map_50_95 == pytest.approx(np.nanmean(means), abs=1e-12)
    assert np.isnan(metrics.ap["dot"])
    assert metrics.absent == 1
    assert 0 < metrics.map_50 < 1


@pytest.mark.parametrize("seed", range(3))
def test_an_image_is_judged_as_if_it_were_alone(seed):
    detections, truths = random_case(seed)
    whole = evaluation(detections, truths)
    expected = []
    for one, truth in zip(detections, truths, strict=True):
        alone = evaluation([one], [truth]).metrics.map_50
        expected.append([0, 0] if np.isnan(alone) else [round(alone * ONE), ONE])
    assert np.abs(whole.statistics - expected).max() <= 1
    shown = [row for row in expected if row[1]]
    image_ap = sum(row[0] for row in shown) / ONE / len(shown)
    assert whole.metrics.image_ap == pytest.approx(image_ap, abs=1e-9)
    total = whole.statistics.sum(0).astype(float)
    assert BOX_PRECISION.score(total) == pytest.approx(image_ap, abs=1e-9)


def test_more_than_a_hundred_objects_in_an_image_all_count():
    grid = [
        (6 * (i % 16), 6 * (i // 16), 6 * (i % 16) + 5, 6 * (i // 16) + 5, 0) for i in range(150)
    ]
    scores = np.linspace(1, 0.1, 150)
    seen = found([(*row, score) for row, score in zip(grid, scores, strict=True)])
    assert evaluation([seen], [objects(grid)]).metrics.map_50 == pytest.approx(1, abs=1e-12)


def test_a_crowd_is_neither_right_nor_wrong():
    truth = objects([(0, 0, 10, 10, 0), (40, 40, 90, 90, 0)], crowd={1})
    sure = [(0, 0, 10, 10, 0, 0.5)]
    inside = [(40 + i, 40, 60 + i, 60, 0, 0.9) for i in range(5)]
    metrics = evaluation([found(sure + inside)], [truth]).metrics
    assert metrics.ap["cell"] == pytest.approx(1, abs=1e-12)
    assert (metrics.objects, metrics.crowds, metrics.found) == ((1, 0, 0), 1, (6, 0, 0))
    elsewhere = [(20, 0, 30, 10, 0, 0.9)]
    assert evaluation([found(sure + elsewhere)], [truth]).metrics.ap["cell"] == pytest.approx(0.5)


def test_a_class_of_crowds_alone_is_absent():
    truth = objects([(0, 0, 10, 10, 0), (40, 40, 90, 90, 1)], crowd={1})
    metrics = evaluation([found([(0, 0, 10, 10, 0, 0.5)])], [truth]).metrics
    assert np.isnan(metrics.ap["rod"])
    assert (metrics.map_50, metrics.absent) == (pytest.approx(1, abs=1e-12), 2)


@pytest.mark.parametrize("empty", [0, 1])
def test_no_objects_is_nan_and_no_detections_is_zero(empty):
    nothing_seen, nothing_there = found([]), objects([])
    one = objects([(0, 0, 10, 10, 0)])
    metrics = evaluation([nothing_seen], [one if empty else nothing_there]).metrics
    assert metrics.map_50 == 0 if empty else np.isnan(metrics.map_50)
    assert metrics.as_dict()["map_50"] == (0.0 if empty else None)


def test_no_images():
    metrics = evaluation([], []).metrics
    assert np.isnan(metrics.map_50)
    assert metrics.absent == 3


def test_what_is_found_where_nothing_is_costs_precision_but_no_image():
    truths = [objects([(0, 0, 10, 10, 0)]), objects([])]
    sure, wrong = found([(0, 0, 10, 10, 0, 0.5)]), found([(0, 0, 10, 10, 0, 0.9)])
    one = evaluation([sure, wrong], truths)
    assert one.metrics.map_50 == pytest.approx(0.5)
    assert one.statistics.tolist() == [[ONE, ONE], [0, 0]]


def test_a_noisy_class_that_an_image_does_not_show_leaves_its_statistic_alone():
    noise = [(50, 50, 60, 60, 1, 0.06), (50, 50, 60, 60, 2, 0.06)]
    one = evaluation([found([(0, 0, 10, 10, 0, 0.9), *noise])], [objects([(0, 0, 10, 10, 0)])])
    assert one.statistics.tolist() == [[ONE, ONE]]


def test_answers_are_the_best_detection_on_each_object():
    truth = objects([(0, 0, 10, 10, 0), (20, 20, 30, 30, 1), (50, 50, 90, 90, 2)], crowd={2})
    seen = found([(0, 0, 10, 9, 0, 0.4), (0, 0, 10, 10, 2, 0.7), (25, 25, 40, 40, 1, 0.9)])
    labels, predictions = evaluation([seen, found([])], [truth, truth]).answers
    assert labels.tolist() == [0, 1, 0, 1]
    assert predictions.tolist() == [2, 3, 3, 3]


def test_truth_tells_images_apart_and_knows_no_detections():
    detections, truths = random_case(0)
    one, other = evaluation(detections, truths), evaluation(detections[::-1], truths)
    assert np.array_equal(one.truth, other.truth)
    moved = objects([(1, 0, 10, 10, 0)])
    changed = evaluation(detections, [moved, *truths[1:]]).truth
    assert (changed != one.truth).any(1).tolist() == [True] + [False] * (len(truths) - 1)


def test_a_file_gives_back_what_was_written(tmp_path):
    one = evaluation(*random_case(1))
    one.write(tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as stored:
        back = DetectionEvaluation.of_arrays(stored)
        assert stored["kind"] == "detection"
    assert back.metrics.as_dict() == one.metrics.as_dict()
    assert np.array_equal(back.statistics, one.statistics)
    assert np.array_equal(back.truth, one.truth)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("found_counts", lambda x: x + 1),
        ("found_counts", lambda x: x.astype(float)),
        ("found_counts", lambda x: np.concatenate([[-1], x[1:]])),
        ("found_counts", lambda x: np.full_like(x, 2**62)),
        ("found_boxes", lambda x: x[:, :3]),
        ("found_boxes", lambda x: x[:, ::-1]),
        ("found_boxes", lambda x: x * np.nan),
        ("found_boxes", lambda x: x.astype(np.int64)),
        ("found_classes", lambda x: x + 3),
        ("found_classes", lambda x: x - 2),
        ("found_scores", lambda x: x[1:]),
        ("found_scores", lambda x: x * np.inf),
        ("object_boxes", lambda x: x[1:]),
        ("object_classes", lambda x: x.astype(float)),
        ("object_crowd", lambda x: x.astype(np.int64)),
        ("image_ap", lambda x: x + 1),
        ("image_ap", lambda x: -x),
        ("image_ap", lambda x: x[1:]),
        ("images", lambda x: x[:3]),
    ],
)
def test_a_file_that_is_no_evaluation_is_refused(name, change):
    stored = evaluation(*random_case(2)).arrays()
    DetectionEvaluation.of_arrays(stored)
    with pytest.raises(ValueError, match=r".+"):
        DetectionEvaluation.of_arrays({**stored, name: change(stored[name])})


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="found_scores"):
        evaluation([found([(0, 0, 1, 1, 0, np.nan)])], [objects([])])
