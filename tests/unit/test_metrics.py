import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import jaccard_score

from segal.functional.metrics import confusion_matrix, iou, mean_iou, pixel_accuracy


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
