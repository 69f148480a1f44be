"""Pieces of a batch: the gradient of the whole, statistics in order, whoever works on them."""

import copy

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from segal.config import DataConfig
from segal.errors import SegalError
from segal.functional.labels import VOID
from segal.system.ranks import Ranks
from segal.tasks import find_task
from segal.tasks.losses import Loss
from segal.training.loop import TrainSettings, train
from segal.training.parallel import check_accelerate
from segal.training.pieces import RunningStatistics, check_pieces, divide, pieces_notes
from tests.boxed import make_set
from tests.threaded_ranks import on_ranks
from tests.tiny_detectors import build
from tests.unit.test_train import BOXES, Dataset, make_model, settings, weights

FROZEN = {"batchnorm": "frozen", "batch_size": 5, "iterations": 6}
UNEVEN = {**BOXES, 1: [(0, 0, 3, 3)], 2: [(5, 5, 36, 24)]}


def trained(norm=False, dataset=None, **changes):
    model = make_model(norm=norm)
    chosen = settings(**FROZEN | changes)
    result = train(model, dataset or Dataset(), chosen, seed=1, labelled=UNEVEN)
    return weights(model), result


def assert_close(first, second, within=1e-5):
    for key, value in first.items():
        assert torch.allclose(value.double(), second[key].double(), atol=within, rtol=0), key


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"class_weights": "0.2,3,1", "loss": "focal"},
        {"optimizer": "adamw", "lr": 1e-3, "grad_clip": 0.1},
        {"crop": 12, "scale": "1,1"},  # some samples have nothing labelled
    ],
)
@pytest.mark.parametrize("pieces", [2, 5])
def test_pieces_have_the_gradient_of_the_whole_batch(pieces, changes):
    whole, expected = trained(**changes)
    found, result = trained(accumulate=pieces, **changes)
    assert_close(found, whole)
    assert result.loss == pytest.approx(expected.loss, abs=1e-5)


def test_a_mean_of_the_pieces_means_would_be_seen(monkeypatch):
    whole, _ = trained()
    monkeypatch.setattr("segal.tasks.schemes.Usual.mass", lambda *_: 1.0)
    found, _ = trained(accumulate=2)
    with pytest.raises(AssertionError):
        assert_close(found, whole, within=1e-3)


def test_weights_of_several_labels_count_by_question():
    of_answers = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    target = torch.tensor([[[0], [1], [VOID]], [[1], [1], [0]]])
    assert Loss(weights=of_answers).mass(target) == 1 + 16 + 8 + 16 + 4


@pytest.mark.parametrize("changes", [{"loss": "cross_entropy+dice"}, {"learning_loss": True}])
def test_losses_of_batches_are_means_over_the_pieces_images(changes):
    found, result = trained(accumulate=2, **changes)
    assert np.isfinite(result.loss)
    whole, _ = trained(**changes)
    assert not all(torch.equal(found[key], whole[key]) for key in whole)


# BatchNorm


class Twice(nn.Module):
    """Norms of every kind; one is called twice in a forward pass."""

    def __init__(self):
        super().__init__()
        self.usual, self.mean_of_all = nn.BatchNorm2d(3), nn.BatchNorm2d(3, momentum=None)
        self.without = nn.BatchNorm2d(3, track_running_stats=False)
        self.still = nn.BatchNorm2d(3).eval()
        self.never_called = nn.BatchNorm2d(3, momentum=None)

    def forward(self, images):
        return self.still(self.without(self.mean_of_all(self.usual(self.usual(images)) ** 2)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_running_statistics_are_those_of_the_pieces_in_order(count):
    torch.manual_seed(0)
    images = torch.randn(11, 3, 4, 4) * 3 + 1
    expected = Twice()
    for norm in (expected.usual, expected.mean_of_all):
        norm.running_mean.normal_()
    expected(images)  # counts are not 0 when the step begins
    start = copy.deepcopy(expected)
    chosen = TrainSettings(batch_size=11, accumulate=5)
    pieces = [piece for own in divide(chosen, Ranks()) for piece in own]
    for piece in pieces:
        expected(images[list(piece.samples)])

    def work(ranks):
        network, own = copy.deepcopy(start), divide(chosen, ranks)
        statistics = RunningStatistics(network, own)
        for piece in own[ranks.rank]:
            with statistics.of_piece():
                network(images[list(piece.samples)])
        statistics.settle(ranks)
        return network.state_dict()

    for state in on_ranks(count, work):
        assert state.keys() == expected.state_dict().keys()
        assert_close(state, expected.state_dict(), within=1e-6)


def test_statistics_of_a_training_do_not_depend_on_who_accumulates():
    found, _ = trained(norm=True, batchnorm="train", batch_size=6, accumulate=3)
    assert found["norm.num_batches_tracked"] == 6 * 3


# How a batch is divided


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize(("size", "pieces"), [(8, 4), (9, 4), (7, 7), (4, None)])
def test_every_sample_is_in_one_piece_and_every_rank_has_one(size, pieces, count):
    chosen = TrainSettings(batch_size=size, accumulate=pieces, batchnorm="frozen")
    parts = divide(chosen, Ranks(0, count))
    assert len(parts) == count
    assert all(parts)
    flat = [piece for own in parts for piece in own]
    assert [piece.number for piece in flat] == list(range(pieces or count))
    assert [sample for piece in flat for sample in piece.samples] == list(range(size))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 2}, "train.accumulate: 2, over 3 ranks"),
        ({"batch_size": 4}, "train.batch_size: 4, over 3 ranks"),
        ({"batch_size": 2, "batchnorm": "frozen"}, "at least 3, 1 for each rank"),
        ({"mial": True}, "train.mial: over 3 ranks"),
    ],
)
def test_ranks_without_enough_to_do_are_refused(changes, message):
    with pytest.raises(SegalError, match=message):
        check_pieces(TrainSettings(**changes), Ranks(0, 3))
    check_pieces(TrainSettings(**changes), Ranks())


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 4, "accumulate": 3},
        {"batch_size": 2, "accumulate": 3, "batchnorm": "frozen"},
        {"accumulate": 0},
    ],
)
def test_pieces_that_are_too_small_are_refused(changes):
    with pytest.raises(ValidationError, match="accumulate"):
        TrainSettings(**changes)


def test_one_piece_is_the_training_it_was():
    assert TrainSettings(accumulate=1).identity() == TrainSettings().identity()
    assert TrainSettings(accumulate=2).identity() != TrainSettings().identity()


def test_what_depends_on_the_number_of_ranks_is_told():
    ranks = Ranks(0, 2)
    (note,) = pieces_notes(TrainSettings(loss="dice"), make_model(), ranks)
    assert "BatchNorm and dropout and the loss" in note
    assert "train.accumulate=2" in note
    frozen = TrainSettings(batchnorm="frozen")
    assert pieces_notes(frozen, make_model(norm=False), ranks) == []
    assert pieces_notes(TrainSettings(accumulate=2), make_model(), ranks) == []
    assert pieces_notes(TrainSettings(), make_model(), Ranks()) == []


def test_what_is_frozen_does_not_depend_on_it():
    chosen = TrainSettings(layers="last")
    assert pieces_notes(chosen, make_model().eval(), Ranks(0, 2)) == []


def test_accelerate_is_asked_for_by_name(monkeypatch):
    monkeypatch.setattr("segal.training.parallel.find_spec", lambda _: None)
    check_accelerate(Ranks())
    with pytest.raises(SegalError, match="pip install accelerate"):
        check_accelerate(Ranks(0, 2))


def test_boxes_are_trained_in_pieces_of_images(tmp_path):
    dataset = find_task("detection").open_split(
        DataConfig(root=make_set(tmp_path, "voc", {"train": 4})), "train"
    )
    changes = {"batch_size": 4, "accumulate": 2, "crop": "image", "batchnorm": "frozen"}
    model = build("ssd")
    before = weights(model)
    result = train(model, dataset, TrainSettings(iterations=2, workers=0, **changes), seed=0)
    assert np.isfinite(result.loss)
    assert any(not torch.equal(value, before[key]) for key, value in weights(model).items())
