"""A detector as a function: what it may return, and what is said of the rest."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from segal.errors import SegalError
from segal.models.build import build_model, make_spec
from segal.models.wrapped import NoHeadError
from segal.tasks.detection.detectors.functions import CallableDetector
from segal.tasks.detection.model import FEATURE_MAPS, FEATURES, RAW, DetectionModel
from tests.tiny_detectors import images

SPEC = make_spec("tests.tiny_detectors:none", "", ("a", "b", "c"), task="detection")
BOXES = [[10.0, 5.0, 60.0, 40.0], [0.0, 0.0, 20.0, 20.0]]
PROBABILITIES = [[0.1, 0.7, 0.2], [0.5, 0.3, 0.1]]


def answer(**changes):
    given = {"boxes": BOXES, "probabilities": PROBABILITIES, **changes}
    return {key: torch.tensor(value) for key, value in given.items() if value is not None}


def model_of(function):
    return DetectionModel(CallableDetector(function), SPEC)


def found_of(**changes):
    return model_of(lambda batch: [answer(**changes)])(images()).detections[0]


def test_the_likeliest_class_and_its_probability_stand_for_what_is_left_out():
    found = found_of()
    assert found.classes.tolist() == [1, 0]
    assert torch.equal(found.scores, torch.tensor([0.7, 0.5]))
    assert torch.equal(found.boxes, torch.tensor(BOXES))
    assert torch.equal(found.probabilities, torch.tensor(PROBABILITIES))
    assert found.source.tolist() == [0, 1] and found.features is None


def test_what_is_given_is_taken():
    found = found_of(classes=[2, 0], scores=[0.4, 0.3], features=[[1.0, 2.0], [3.0, 4.0]])
    assert found.classes.tolist() == [2, 0]
    assert found.scores.tolist() == pytest.approx([0.4, 0.3])
    assert found.features.tolist() == [[1, 2], [3, 4]]


def test_arrays_of_other_types_are_taken_too():
    given = {
        "boxes": np.array(BOXES),
        "probabilities": np.array(PROBABILITIES, dtype=np.float16),
        "classes": np.array([1.0, 0.0]),  # as supervision and ultralytics give them
    }
    found = model_of(lambda batch: [given])(images()).detections[0]
    assert found.boxes.dtype == found.probabilities.dtype == found.scores.dtype == torch.float32
    assert found.classes.dtype == torch.int64


def test_each_image_is_given_alone():
    shapes = []

    def detect(batch):
        shapes.append((tuple(batch.shape), torch.is_grad_enabled()))
        return [answer()]

    evidence = model_of(detect)([images()[0], images(size=(90, 130))[0]])
    assert shapes == [((1, 3, 70, 110), False), ((1, 3, 90, 130), False)]
    assert evidence.logits.shape == (1, 3, 1, 4)


def test_no_boxes_are_legal():
    empty = {"boxes": torch.zeros(0, 4), "probabilities": torch.zeros(0, 3)}
    evidence = model_of(lambda batch: [empty])(images())
    assert len(evidence.detections[0]) == 0
    assert evidence.logits.shape == (1, 3, 1, 0)


def test_a_rounding_error_outside_is_clipped():
    found = found_of(boxes=[[-0.6, 5.0, 110.7, 40.0], [0.0, 0.0, 20.0, 20.0]])
    assert found.boxes[0].tolist() == [0, 5, 110, 40]


@pytest.mark.parametrize(
    ("changes", "words", "example"),
    [
        ({"boxes": [[10.0, 5, np.nan, 40], BOXES[1]]}, "boxes that are not finite", "1 NaN"),
        ({"probabilities": [[np.nan] * 3, [0.5, 0.3, 0.1]]}, "probabilities that are not", "3 NaN"),
        ({"features": [[np.inf], [0.0]]}, "features that are not finite", "1 NaN"),
        ({"probabilities": [[2.1, -3, 1], PROBABILITIES[1]]}, "not normalised", "box 0: 2.1, -3"),
        ({"probabilities": [PROBABILITIES[0], [0.0] * 3]}, "all 0", "box 1"),
        ({"probabilities": PROBABILITIES[::-1]}, "not sorted", "the first box 1: 0.7"),
        ({"scores": [0.1, 0.2]}, "not sorted", "the first box 1: 0.2"),
        ({"scores": [90.0, 20.0]}, "scores outside", "box 0: 90"),
        ({"classes": [3, 0]}, "classes that there are not", "box 0: 3"),
        ({"classes": [1, -1]}, "classes that there are not", "box 1: -1"),
        ({"classes": [0.5, 1]}, "no whole numbers", "0.5"),
        ({"boxes": [[60.0, 5, 10, 40], BOXES[1]]}, "without area", "box 0: 60, 5, 10, 40"),
        ({"boxes": [BOXES[0], [5.0, 5, 5, 9]]}, "without area", "box 1"),
        ({"boxes": [[10.0, 5, 60, 400], BOXES[1]]}, "outside the image", "box 0: 10, 5, 60, 400"),
        ({"boxes": [[-30.0, 5, 60, 40], BOXES[1]]}, "outside the image", "box 0: -30"),
        ({"boxes": [BOXES[0]]}, "another shape", r"\(2, 3\)"),
        ({"boxes": [[1.0, 2.0], [3.0, 4.0]]}, "another shape", r"\(2, 2\)"),
        ({"probabilities": [[0.5] * 4] * 2}, "another shape", "3 classes"),
        ({"features": [[1.0]]}, "another shape", r"\(1, 1\)"),
        ({"probabilities": None}, "no boxes in what it returns", "'boxes'"),
    ],
)
def test_what_is_wrong_is_named(changes, words, example):
    with pytest.raises(SegalError, match=words) as caught:
        found_of(**changes)
    assert re.search(example, str(caught.value))
    assert caught.value.expected and caught.value.remedy


def test_all_mistakes_are_said_at_once():
    with pytest.raises(SegalError) as caught:
        found_of(boxes=[[10.0, 5, 600, 40], [5.0, 5, 5, 9]], scores=[0.1, 0.2])
    text = str(caught.value)
    assert all(word in text for word in ("outside the image", "without area", "not sorted"))


@pytest.mark.parametrize("output", [None, [], [answer(), answer()], torch.zeros(3), [[1, 2]]])
def test_another_form_is_refused(output):
    with pytest.raises(SegalError, match="no boxes in what it returns"):
        model_of(lambda batch: output)(images())


def test_what_the_function_raises_is_said():
    def detect(batch):
        raise KeyError("pred")

    with pytest.raises(SegalError, match="failed on 1 images") as caught:
        model_of(detect)(images())
    assert "KeyError" in str(caught.value)


def test_what_a_function_cannot_give_is_refused():
    model = model_of(lambda batch: [answer()])
    model.check()
    for catch in (FEATURES, FEATURE_MAPS, RAW, "last"):
        with pytest.raises(NoHeadError):
            model(images(), (catch,))
    for check in (model.check_features, model.check_raw, model.check_feature_maps):
        with pytest.raises(NoHeadError):
            check()
    with pytest.raises(SegalError, match="cannot be trained"):
        model.losses(images(), [{}])
    with pytest.raises(SegalError, match="no backbone"):
        model.detector.encoder()
    model_of(lambda batch: [answer(features=[[1.0], [2.0]])]).check_features()


def test_functions_are_told_apart_by_what_they_give():
    network = DetectionModel.network_of(lambda batch: [answer()], None)
    classes, digest = network.look(images())
    assert classes == 3
    assert DetectionModel.network_of(lambda batch: [answer()], None).look(images()) == (3, digest)
    other = DetectionModel.network_of(
        lambda batch: [answer(classes=[2, 0], scores=[0.7, 0.5])], None
    )
    assert other.look(images())[1] != digest


class Own(nn.Module):
    """A network of the user's own, which knows its losses."""

    def __init__(self, num_classes):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.num_classes = num_classes

    def forward(self, batch):
        shape = (1, self.num_classes)
        return [{"boxes": torch.tensor(BOXES[:1]), "probabilities": torch.full(shape, 0.5)}]

    def losses(self, batch, targets):
        return {"count": self.scale * sum(len(one["boxes"]) for one in targets)}


def test_a_network_of_ones_own_answers_as_a_function_does_and_can_be_trained(monkeypatch):
    spec = make_spec("tests.unit.test_detector_functions:Own", "", ("a", "b"), task="detection")
    model = build_model(spec)
    model.check()
    assert model(images(2)).logits.shape == (1, 2, 1, 2)
    losses = model.losses(images(), [{"boxes": torch.zeros(3, 4), "labels": torch.zeros(3)}])
    assert losses["count"] == 3
    wrong = make_spec("tests.unit.test_detector_functions:two", "", ("a", "b"), task="detection")
    with pytest.raises(SegalError, match="another shape"):
        build_model(wrong).check()


def two(num_classes):
    return Own(3)
