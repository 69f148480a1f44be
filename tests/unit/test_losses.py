"""Losses against loops in float64, and against the library that they are from."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from segmentation_models_pytorch.losses import DiceLoss, LovaszLoss
from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from segal.errors import SegalError
from segal.functional.labels import VOID
from segal.jobs.losses import TrainedBy, loss_notes, read_training
from segal.jobs.strategies import describe_strategies, notes_of_loss
from segal.models.checkpoint import save_checkpoint
from segal.signals.directional import Directional
from segal.signals.directions import Influence, Inverse, ReferenceGradient
from segal.strategies import STRATEGIES
from segal.tasks import find_task
from segal.tasks.losses import LOSSES, Loss
from segal.training.balance import balanced, class_weights
from segal.training.loop import train
from segal.training.sampling import LabelledRegions
from tests.unit.test_train import Dataset, make_model, settings, weights

K = 4
EVERY = [*LOSSES, "cross_entropy+dice", "focal+lovasz"]
SOME_WEIGHTS = (0.5, 2.0, 3.0, 0.25)


def batch(seed=0, void=0.4, size=(3, 5, 4), last_class=True, dtype=torch.float64):
    """Logits and classes of three images; class 3 may be in none of them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size[0], K, *size[1:], generator=generator, dtype=dtype)
    target = torch.randint(0, K if last_class else K - 1, size, generator=generator)
    target[torch.rand(size, generator=generator) < void] = VOID
    return logits, target


def looped(name, logits, target, factors=None):
    """A loss of a batch, element by element, from its definition; differentiable."""
    factors = [1.0] * K if factors is None else factors
    elements = [
        (logits[b, :, y, x].softmax(0), int(target[b, y, x]))
        for b in range(target.shape[0])
        for y in range(target.shape[1])
        for x in range(target.shape[2])
        if target[b, y, x] >= 0
    ]
    total = logits.new_zeros(())
    if not elements:
        return total
    shown = {label for _, label in elements}
    for term in name.split("+"):
        if term in {"cross_entropy", "focal"}:
            values = [
                factors[c] * -p[c].log() * ((1 - p[c]) ** 2 if term == "focal" else 1.0)
                for p, c in elements
            ]
            total = total + sum(values) / sum(factors[c] for _, c in elements)
        elif term == "dice":
            of_classes = []
            for c in range(K):
                both = sum(p[c] for p, label in elements if label == c)
                sizes = sum(p[c] for p, _ in elements) + sum(label == c for _, label in elements)
                of_classes.append(1 - 2 * both / sizes if c in shown else 0.0)
            pairs = zip(factors, of_classes, strict=True)
            total = total + sum(w * one for w, one in pairs) / sum(factors)
        else:
            of_classes = []
            for c in sorted(shown):
                errors = [(1 - p[c] if label == c else p[c], label == c) for p, label in elements]
                errors.sort(key=lambda pair: -pair[0].item())
                size, before, extension = sum(own for _, own in errors), 0.0, 0.0
                for i in range(1, len(errors) + 1):
                    missed = sum(own for _, own in errors[:i])
                    others = i - missed
                    after = 1 - (size - missed) / (size + others)  # 1 - IoU with these i wrong
                    extension = extension + errors[i - 1][0] * (after - before)
                    before = after
                of_classes.append(extension)
            total = total + sum(of_classes) / len(of_classes)
    return total


def value_and_gradient(loss, logits, target):
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, target)
    value.backward()
    return value.detach(), leaf.grad


@pytest.mark.parametrize("factors", [None, SOME_WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("name", EVERY)
def test_losses_and_gradients_are_those_of_a_loop(name, factors):
    for seed, last_class in ((0, True), (1, False)):
        logits, target = batch(seed, last_class=last_class)
        wanted = value_and_gradient(lambda x, y: looped(name, x, y, factors), logits, target)
        loss = Loss(name, None if factors is None else torch.tensor(factors))
        value, gradient = value_and_gradient(loss, logits.float(), target)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), wanted[0], rtol=2e-6, atol=1e-7)
        torch.testing.assert_close(gradient.double(), wanted[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", EVERY)
def test_each_image_by_itself_is_a_batch_of_one(name):
    logits, target = batch(2, dtype=torch.float32)
    target[1] = VOID
    loss = Loss(name, None if name == "focal+lovasz" else torch.tensor(SOME_WEIGHTS))
    found = loss.of_images(logits, target)
    alone = [loss(logits[i : i + 1], target[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(found, torch.stack(alone))
    assert found[1] == 0


@pytest.mark.parametrize("name", EVERY)
def test_what_has_no_class_has_no_part(name):
    loss = Loss(name)
    logits, target = batch(3, dtype=torch.float32)
    target[1] = VOID
    value, gradient = value_and_gradient(loss, logits, target)
    void = target == VOID
    assert void.any(dim=(1, 2)).all()
    assert not gradient.movedim(1, -1)[void].any()
    assert gradient.movedim(1, -1)[~void].any(-1).all()
    others = torch.where(void[:, None], -50 * logits, logits)
    other, same = value_and_gradient(loss, others, target)
    torch.testing.assert_close(other, value, rtol=1e-6, atol=0)
    torch.testing.assert_close(same, gradient)
    fewer = [0, 2]
    torch.testing.assert_close(loss(logits[fewer], target[fewer]), value)
    # A batch of nothing: zero, and no NaN behind it.
    for nothing in (logits, 200 * logits):
        value, gradient = value_and_gradient(loss, nothing, torch.full_like(target, VOID))
        assert value == 0
        assert not gradient.any()


@pytest.mark.parametrize("name", EVERY)
def test_a_network_that_is_sure_has_a_finite_gradient(name):
    logits, target = batch(4, dtype=torch.float32)
    for factor in (60, 1e4):  # probabilities of exactly 0 and 1
        value, gradient = value_and_gradient(Loss(name), factor * logits, target)
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_losses_are_the_librarys():
    logits, target = batch(5, dtype=torch.float32)
    valid = target >= 0
    dice = DiceLoss("multiclass", ignore_index=VOID)
    lovasz = LovaszLoss("multiclass", ignore_index=VOID)
    flat = logits.movedim(1, -1)[valid]
    assert Loss("dice")(logits, target) == dice(logits, target)
    assert Loss("lovasz")(logits, target) == lovasz(logits, target)
    torch.testing.assert_close(
        Loss("focal")(logits, target), softmax_focal_loss_with_logits(flat, target[valid])
    )
    summed = Loss("cross_entropy+dice")(logits, target)
    torch.testing.assert_close(summed, F.cross_entropy(flat, target[valid]) + dice(logits, target))
    given = torch.tensor(SOME_WEIGHTS)
    torch.testing.assert_close(
        Loss("cross_entropy", given)(logits, target),
        F.cross_entropy(logits, target, given, ignore_index=VOID),
    )


def test_the_usual_loss_has_the_bytes_that_it_had():
    logits, target = batch(6, dtype=torch.float32)
    total = F.cross_entropy(logits, target, ignore_index=VOID, reduction="sum")
    assert torch.equal(Loss()(logits, target), total / (target >= 0).sum())
    each = F.cross_entropy(logits, target, ignore_index=VOID, reduction="none").flatten(1).sum(1)
    assert torch.equal(Loss().of_images(logits, target), each / (target >= 0).flatten(1).sum(1))


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "cross_entropy+focal"])
def test_questions_of_their_own_have_weights_of_their_own(name):
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(5, 2, 3, 1, generator=generator, dtype=torch.float64)
    target = torch.randint(-1, 2, (5, 3, 1), generator=generator)
    target[target < 0] = VOID
    given = torch.rand(2, 3, generator=generator, dtype=torch.float64) + 0.1
    top = bottom = torch.zeros((), dtype=torch.float64)
    expected = 0.0
    for term in name.split("+"):
        top, bottom = 0.0, 0.0
        for b in range(5):
            for row in range(3):
                answer = int(target[b, row, 0])
                if answer >= 0:
                    p = logits[b, :, row, 0].softmax(0)[answer]
                    one = -p.log() * ((1 - p) ** 2 if term == "focal" else 1)
                    top, bottom = top + given[answer, row] * one, bottom + given[answer, row]
        expected = expected + top / bottom
    torch.testing.assert_close(Loss(name, given)(logits, target), expected)


# Settings


def test_names_of_losses_are_brought_to_one_form():
    assert settings().loss is None
    assert settings(loss="dice + cross_entropy").loss == "cross_entropy+dice"
    assert settings(loss="lovasz+focal").loss == "focal+lovasz"
    unchanged = settings().identity()
    assert settings(loss="cross_entropy", class_weights="none").identity() == unchanged
    assert settings(class_weights=None).identity() == unchanged
    assert settings(loss="focal").identity()["loss"] == "focal"
    for given in ("1, 2.5", "[1, 2.5]", [1, 2.5]):  # a list, also as it is written in YAML
        assert settings(class_weights=given).identity()["class_weights"] == [1.0, 2.5]
    assert settings(scale="[0.5, 1]").scale == settings(scale="0.5,1").scale == (0.5, 1.0)
    assert settings(class_weights="balanced").identity() | unchanged != unchanged


@pytest.mark.parametrize("loss", ["", "tversky", "dice+dice", "dice+focal+lovasz", "dice+", 3])
def test_other_losses_are_refused(loss):
    with pytest.raises(ValidationError, match="or the sum of two of them"):
        settings(loss=loss)


@pytest.mark.parametrize(
    "given",
    ["0,1,1", "-1,2,3", "nan,1", "inf,1", "1e-60,1", "1e60,1", "", "balance", [], [True, 2],
     [None, 1], {"a": 1}, 3, [[1.0], 2], [10**400, 1]],
)  # fmt: skip
def test_class_weights_that_are_none_are_refused(given):
    with pytest.raises(ValidationError, match="none, balanced, or for each class a factor"):
        settings(class_weights=given)


def test_lovasz_alone_takes_no_weights():
    with pytest.raises(ValidationError, match="without factors"):
        settings(loss="lovasz", class_weights="balanced")
    assert settings(loss="lovasz+cross_entropy", class_weights="1,2").loss == "cross_entropy+lovasz"


def test_tasks_take_the_losses_that_mean_something():
    for loss in EVERY:
        find_task("segmentation").training_scheme(settings(loss=loss))
    for task in ("classification", "multilabel"):
        find_task(task).training_scheme(settings(loss="cross_entropy+focal"))
        for loss in ("dice", "focal+lovasz"):
            with pytest.raises(SegalError, match="overlap is of pixels"):
                find_task(task).training_scheme(settings(loss=loss))
    detection = find_task("detection")
    detection.training_scheme(settings())
    with pytest.raises(SegalError) as caught:
        detection.training_scheme(settings(loss="cross_entropy", class_weights="balanced"))
    assert [one.problem for one in caught.value.errors] == [
        "train.loss: not for detection", "train.class_weights: not for detection",
    ]  # fmt: skip


# Class weights


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.random.default_rng(0).choice(4, 1000, p=[0.9, 0.05, 0.04, 0.01])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(balanced(np.bincount(labels)), expected)
    assert balanced(np.array([0, 0, 0])).tolist() == [0, 0, 0]


def test_balanced_weights_are_of_what_is_labelled_alone():
    dataset = Dataset()
    dataset.labels[0][:, :5] = 255
    dataset.labels[2][:] = 0
    labelled = {0: [(0, 0, 20, 10), (10, 5, 24, 12)], 2: [(3, 3, 9, 9)]}
    regions = LabelledRegions.of(dataset, labelled)
    counts = np.zeros(3, np.int64)
    for image, boxes in labelled.items():
        for y in range(24):
            for x in range(36):
                inside = any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in boxes)
                if inside and dataset.labels[image][y, x] != 255:
                    counts[dataset.labels[image][y, x]] += 1
    shown = counts > 0
    expected = np.where(shown, counts.sum() / (shown.sum() * np.maximum(counts, 1)), 0)
    for workers in (0, 2):
        chosen = settings(class_weights="balanced", workers=workers)
        found = class_weights(chosen, dataset, regions, each=False)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert counts.sum() < 20 * 10 + 14 * 7 + 36  # overlapped and void


class Answers:
    """Three yes-or-no questions of four images; -1 is not known."""

    def __init__(self):
        self.labels = np.array([[1, 0, -1], [0, 0, -1], [0, 0, 1], [-1, 1, 1]], np.int32)[..., None]
        self.classes = type("Names", (), {"names": ("a", "b", "c")})
        self.pool = type("Pool", (), {"size": lambda _, i: (3, 1), "__len__": lambda _: 4})()

    def read_label(self, index):
        return self.labels[index]


def test_questions_are_balanced_by_themselves():
    dataset = Answers()
    regions = LabelledRegions.of(dataset, None)
    found = class_weights(settings(class_weights="balanced"), dataset, regions, each=True)
    expected = [[3 / (2 * 2), 4 / (2 * 3), 0], [3 / (2 * 1), 4 / (2 * 1), 1]]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    given = class_weights(settings(class_weights="1,2,3"), dataset, regions, each=True)
    assert given.tolist() == [[1, 2, 3], [1, 2, 3]]


def test_as_many_weights_as_classes():
    dataset = Dataset()
    regions = LabelledRegions.of(dataset, None)
    with pytest.raises(SegalError, match="2 of them, for 3 classes") as caught:
        class_weights(settings(class_weights="1,2"), dataset, regions, each=False)
    assert "a factor for each of dark, light, red" in str(caught.value)


# Training


def trained(**changes):
    model = make_model()
    train(model, Dataset(), settings(iterations=3, **changes), seed=3)
    return weights(model)


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


def test_a_training_goes_by_its_loss_and_weights():
    usual = trained()
    assert same(usual, trained(loss="cross_entropy"))
    alike = trained(class_weights="2,2,2")  # but for rounding
    assert all(torch.allclose(usual[k].float(), v.float(), atol=1e-4) for k, v in alike.items())
    found = [usual] + [trained(loss=name) for name in EVERY[1:]]
    found += [trained(class_weights=given) for given in ("balanced", "1,9,1")]
    found += [trained(loss="cross_entropy+dice", class_weights="1,9,1")]
    pairs = [(i, j) for i in range(len(found)) for j in range(i)]
    assert not any(same(found[i], found[j]) for i, j in pairs)
    assert all(value.isfinite().all() for one in found for value in one.values())


@pytest.mark.parametrize("loss", ["dice", "cross_entropy+lovasz"])
def test_a_loss_prediction_module_learns_from_the_losses_of_images(loss):
    model = make_model()
    chosen = settings(iterations=2, loss=loss, learning_loss=True)
    result = train(model, Dataset(), chosen, seed=0)
    assert math.isfinite(result.loss)
    assert model.loss_prediction is not None


def test_a_network_learns_a_rare_class_only_with_weights():
    """Two per cent of a class that cannot be told from the other: its share decides."""
    features = torch.zeros(100, 1)
    target = torch.zeros(100, dtype=torch.int64)
    target[:2] = 1
    answered = {}
    for kind, given in (("alike", None), ("balanced", [50 / 98, 25.0])):
        head = nn.Linear(1, 2)
        loss = Loss(weights=None if given is None else torch.tensor(given))
        optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100)

        def closure(head=head, loss=loss, optimizer=optimizer):
            optimizer.zero_grad()
            value = loss(head(features).T[None, :, :, None], target[None, :, None])
            value.backward()
            return value

        optimizer.step(closure)
        answered[kind] = head(features)[0].softmax(0)[1].item()
    assert answered["alike"] == pytest.approx(0.02, abs=1e-3)
    assert answered["balanced"] == pytest.approx(0.5, abs=1e-3)


# What strategies take for granted

GRADIENT = {
    "badge", "err_reduction", "error_change", "error_change_first_order", "grad_similarity",
    "gradnorm",
}  # fmt: skip
INFLUENCE = {"isal", "ralif"}


def test_gradient_strategies_tell_of_another_loss():
    for described in describe_strategies()[0]:
        if described["from"] != "segal":
            continue
        name = described["name"]
        strategy = STRATEGIES.get(name)()
        for usual in (settings(), settings(loss="cross_entropy")):
            assert notes_of_loss(strategy, TrainedBy.settings(usual)) == []
        dice = TrainedBy.settings(settings(loss="cross_entropy+dice"))
        weighted = TrainedBy.settings(settings(class_weights="balanced"))
        if name in INFLUENCE:
            with pytest.raises(SegalError, match=f"{name}: not of a network") as caught:
                notes_of_loss(strategy, dice)
            assert "Hessian" in str(caught.value)
            (note,) = notes_of_loss(strategy, weighted)
            assert f"{name} takes the network for one at the minimum" in note
        elif name in GRADIENT:
            (note,) = notes_of_loss(strategy, dice)
            assert f"{name} goes by gradients of cross-entropy" in note
            assert "trained by cross_entropy+dice," in note
            (note,) = notes_of_loss(strategy, weighted)
            assert "trained by cross_entropy with class weights," in note
        else:
            assert notes_of_loss(strategy, dice) == notes_of_loss(strategy, weighted) == []


def test_influence_without_a_hessian_starts_from_no_minimum():
    dice = TrainedBy("here", "dice")
    plain = Directional(Influence(inverse=Inverse("identity")))
    assert len(loss_notes([plain, Directional(ReferenceGradient())], dice, "x")) == 1
    with pytest.raises(SegalError, match="as here says"):
        loss_notes([plain, Directional(Influence())], dice, "x")


@pytest.mark.parametrize(
    ("said", "loss", "weighted"),
    [
        ({}, "cross_entropy", False),
        ({"settings": {"lr": 0.1}}, "cross_entropy", False),
        ({"settings": {"loss": None, "class_weights": "none"}}, "cross_entropy", False),
        ({"settings": {"loss": "dice", "class_weights": "none"}}, "dice", False),
        ({"settings": {"loss": None, "class_weights": [1, 2]}}, "cross_entropy", True),
        ({"settings": [1]}, "cross_entropy", False),
        ({"settings": {"loss": "x\x1b[31m" + "y" * 999}}, "x\x1b[31m" + "y" * 999, False),
    ],
)
def test_a_checkpoint_says_what_it_was_trained_by(tmp_path, said, loss, weighted):
    path = tmp_path / "model.safetensors"
    save_checkpoint(make_model(), path, said)
    assert read_training(path) == said
    found = TrainedBy.checkpoint(path)
    assert (found.loss, found.weighted) == (loss, weighted)
    assert "\x1b" not in found.title
    assert len(found.title) < 150
