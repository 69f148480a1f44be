import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, jaccard_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from segal.functional import metrics
from segal.functional.metrics import (
    average_precision,
    balanced_accuracy,
    confusion_matrix,
    iou,
    mean_iou,
    mean_iou_of_overlaps,
    overlaps,
    pixel_accuracy,
    recall,
)


def random_pair(seed: int, classes: int = 5, shape: tuple[int, ...] = (2, 17, 23)):
    generator = np.random.default_rng(seed)
    prediction = generator.integers(0, classes, shape)
    target = generator.integers(0, classes, shape)
    target[generator.random(shape) < 0.3] = 255
    return prediction, target


def counted_one_by_one(prediction, target, classes):
    counts = np.zeros((classes, classes), np.int64)
    for predicted, truth in zip(prediction.flat, target.flat, strict=True):
        if truth != 255:
            counts[truth, predicted] += 1
    return counts


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_confusion_matrix_counts_pairs(dtype):
    prediction, target = random_pair(0)
    matrix = confusion_matrix(
        torch.from_numpy(prediction).to(dtype), torch.from_numpy(target).to(dtype), 5
    )
    assert matrix.dtype == torch.int64
    np.testing.assert_array_equal(matrix.numpy(), counted_one_by_one(prediction, target, 5))
    kept = target != 255
    np.testing.assert_array_equal(
        matrix.numpy(), sklearn_confusion(target[kept], prediction[kept], labels=range(5))
    )


def test_iou_is_the_jaccard_index_of_sklearn():
    prediction, target = random_pair(1)
    kept = target != 255
    confusion = counted_one_by_one(prediction, target, 5)
    expected = jaccard_score(target[kept], prediction[kept], labels=range(5), average=None)
    np.testing.assert_allclose(iou(confusion), expected, rtol=1e-15)
    assert mean_iou(confusion) == pytest.approx(expected.mean(), rel=1e-15)
    assert pixel_accuracy(confusion) == pytest.approx((prediction == target)[kept].mean())


def test_absent_class_is_nan_and_left_out_of_the_mean():
    confusion = np.array([[3, 1, 0, 0], [0, 2, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = iou(confusion)
    # Class 3 is predicted by mistake, so it counts as 0; class 2 is nowhere.
    np.testing.assert_allclose(scores, [3 / 4, 2 / 5, np.nan, 0.0])
    assert mean_iou(confusion) == pytest.approx((3 / 4 + 2 / 5) / 3)


def test_nothing_counted():
    nothing = torch.full((4, 4), 255)
    confusion = confusion_matrix(torch.zeros(4, 4, dtype=torch.int64), nothing, 3).numpy()
    assert confusion.sum() == 0
    assert math.isnan(mean_iou(confusion))
    assert math.isnan(pixel_accuracy(confusion))


def test_dataset_level_is_not_the_mean_of_images():
    parts = [random_pair(seed, shape=(8, 9)) for seed in range(3)]
    total = sum(confusion_matrix(*map(torch.from_numpy, pair), 5) for pair in parts)
    whole = [np.concatenate(side) for side in zip(*parts, strict=True)]
    np.testing.assert_array_equal(total.numpy(), counted_one_by_one(*whole, 5))


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([0, 1], [0, 1, 1], "shapes differ"),
        ([0, 3], [0, 1], "prediction holds a class outside"),
        ([0, 1], [0, 3], "target holds a class outside"),
        ([0, -1], [0, 1], "prediction holds a class outside"),
    ],
)
def test_bad_input(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(torch.tensor(prediction), torch.tensor(target), 3)


def test_prediction_at_the_ignore_index_does_not_matter():
    matrix = confusion_matrix(torch.tensor([9, 1]), torch.tensor([255, 1]), 2)
    assert matrix.tolist() == [[0, 0], [0, 1]]


def test_overlaps_of_images_add_up_to_the_miou():
    confusions = np.random.default_rng(0).integers(0, 9, (7, 4, 4)).astype(np.int32)
    confusions[:, 2] = confusions[:, :, 2] = 0
    total = overlaps(confusions).sum(0).astype(np.float64)
    assert mean_iou_of_overlaps(total) == mean_iou(confusions.sum(0, dtype=np.int64))
    assert np.isnan(mean_iou_of_overlaps(np.zeros(8)))


def test_recall_of_nothing_is_nothing():
    nothing = np.zeros((3, 3), np.int64)
    assert np.isnan(recall(nothing)).all()
    assert math.isnan(balanced_accuracy(nothing))


@pytest.mark.parametrize("length", [1, 2, 30])
@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_average_precision_is_scikit_learns(length, levels, monkeypatch):
    rng = np.random.default_rng(length)
    labels = rng.integers(0, 2, (40, length))
    scores = rng.integers(0, levels, (40, length)).astype(np.float32)
    scores[::7] = -np.inf
    expected = [
        average_precision_score(y, np.maximum(s, -9)) if y.any() else np.nan
        for y, s in zip(labels, scores, strict=True)
    ]
    np.testing.assert_allclose(average_precision(labels, scores), expected, rtol=1e-12)
    monkeypatch.setattr(metrics, "_CHUNK", 3 * length)
    np.testing.assert_allclose(average_precision(labels, scores), expected, rtol=1e-12)


def test_what_is_not_known_does_not_count():
    labels, scores = np.array([[1, -1, 0, 1, -1]]), np.array([[0.1, 0.9, 0.5, 0.5, 0.1]])
    known = average_precision_score([1, 0, 1], [0.1, 0.5, 0.5])
    assert average_precision(labels, scores)[0] == pytest.approx(known, rel=1e-12)
    assert np.isnan(average_precision(-labels.clip(0, 1), scores)).all()


@pytest.mark.parametrize(
    ("labels", "scores", "what"),
    [([1, 0], [1.0, 0.0], "two arrays"), ([[1, 0]], [[1.0]], "two arrays"),
     ([[1, 2]], [[1.0, 0.0]], "labels"), ([[1, 0]], [[1.0, np.nan]], "NaN")],
)  # fmt: skip
def test_average_precision_refuses_what_is_no_ranking(labels, scores, what):
    with pytest.raises(ValueError, match=what):
        average_precision(labels, scores)
