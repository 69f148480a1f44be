"""Evaluation image by image, and its file."""

import numpy as np
import pytest
import torch

from segal.errors import SegalError
from segal.tasks.judging import read_evaluation
from segal.tasks.segmentation.evaluation import SegmentationEvaluation
from segal.tasks.segmentation.task import Segmentation
from tests.batched import Batched


@pytest.fixture
def evaluation():
    return SegmentationEvaluation(
        class_names=("a", "b"),
        images=("x.png",),
        confusions=np.array([[[3, 1], [0, 2]]], np.int32),
        labels=np.zeros((1, 256), np.uint8),
        predictions=np.ones((1, 256), np.uint8),
    )


def test_what_is_written_is_read(evaluation, tmp_path):
    evaluation.write(tmp_path / "evaluation.npz")
    read = read_evaluation(tmp_path / "evaluation.npz")
    assert (read.class_names, read.images) == (("a", "b"), ("x.png",))
    assert np.array_equal(read.confusions, evaluation.confusions)
    assert read.metrics.miou == pytest.approx((3 / 4 + 2 / 3) / 2)


@pytest.mark.parametrize("kind", ["missing", "cut", "spoilt", "array", "text", "other"])
def test_a_damaged_file_is_explained(evaluation, tmp_path, kind):
    path = tmp_path / "evaluation.npz"
    evaluation.write(path)
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "spoilt":
        path.write_bytes(data[:200] + bytes(255 - b for b in data[200:400]) + data[400:])
    elif kind == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind == "text":
        path.write_text("no such thing")
    else:
        np.savez(path, images=np.zeros(3))
    with pytest.raises(SegalError, match=r"evaluation.npz"):
        read_evaluation(path)


def test_places_lie_within_an_image_of_more_pixels_than_float32_counts(monkeypatch):
    shape = 4000, 5000

    def pieces(self, *arguments, **options):
        label = torch.zeros(shape, dtype=torch.uint8)
        label[-1, -1] = 1
        yield 0, (0, 0), label.long(), label

    class Pool(Batched):
        paths = ("x.png",)

        def size(self, index):
            return shape

    class Dataset:
        pool = Pool()
        classes = type("Classes", (), {"names": ("a", "b")})()

        def __len__(self):
            return 1

    monkeypatch.setattr(Segmentation, "_pieces", pieces)
    evaluation = Segmentation().evaluation(None, Dataset())
    assert evaluation.labels[0, -1] == evaluation.predictions[0, -1] == 1
    assert evaluation.confusions[0].tolist() == [[shape[0] * shape[1] - 1, 0], [0, 1]]
