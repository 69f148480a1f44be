"""MIAL's training: what moves, what is read, what is lost, and that it goes on where it stopped."""

import hashlib
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from segal.errors import SegalError
from segal.models.mial import MialSettings, Stage, moving
from segal.tasks.detection.detectors.two_heads import HeadOutputs
from segal.tasks.detection.mial import MultipleInstance, shown, two_heads
from segal.tasks.detection.targets import Targets
from segal.tasks.detection.task import Detection
from segal.tasks.schemes import Batch
from segal.tasks.segmentation.task import Segmentation
from segal.training.loop import TrainSettings, train
from segal.training.sampling import UnlabelledSamples
from tests import tiny_detectors
from tests.batched import Batched
from tests.boxed import CLASSES, draw

LABELLED = {0: [(0, 0, 96, 64)], 2: [(0, 0, 96, 64)], 4: [(0, 0, 96, 64)]}  # 4 has no object
MAXIMISE, MINIMISE = Stage("maximise", 0, 1), Stage("minimise", 0, 1)


class Pool(Batched):
    unit, root = "pixels", "memory"

    def __init__(self, images, seen):
        self.images, self.seen = images, seen
        self.paths = [f"{i}.png" for i in range(len(images))]
        self.infos = [SimpleNamespace(digest=hashlib.sha256(i).hexdigest()) for i in images]

    def __len__(self):
        return len(self.images)

    def size(self, index):
        return self.images[index].shape[:2]

    shape = size

    def read(self, index):
        self.seen.add(index)
        return self.images[index]


class Dataset:
    """Images with boxes in memory; it notes what is read."""

    def __init__(self, count=7, readable=tuple(LABELLED)):
        self.images, self.objects = zip(*(draw(seed) for seed in range(count)), strict=True)
        self.readable, self.seen = readable, set()
        self.pool = Pool(self.images, self.seen)
        self.classes = SimpleNamespace(names=CLASSES)

    def __len__(self):
        return len(self.images)

    def read_label(self, index):
        assert index in self.readable, "a label that is not bought was read"
        return self.objects[index]

    def digest(self, indices=None):
        return str(sorted(indices if indices is not None else range(len(self))))


def settings(mial=True, **changes):
    usual = {
        "iterations": 13, "batch_size": 2, "lr": 0.01, "workers": 0, "crop": "image",
        "validate_every": 0, "colour_jitter": 0, "grad_clip": 1.0, "mial": mial,
    }  # fmt: skip
    return TrainSettings(**{**usual, **changes})


def network(seed=0):
    return tiny_detectors.two_heads("ssd", seed=seed)


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def changed(before, after):
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


def run(mial=True, dataset=None, model=None, **options):
    model = model or network()
    changes = options.pop("changes", {})
    train(
        model, dataset or Dataset(), settings(mial, **changes), seed=5,
        **{"labelled": LABELLED, **options},
    )  # fmt: skip
    return model


# The whole training


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_each_step_moves_what_its_stage_says_and_nothing_else(preset):
    model = network()
    scheme = MultipleInstance(MialSettings(preset=preset), 13)
    snapshots = [state(model)]
    run({"preset": preset}, model=model, progress=lambda *_: snapshots.append(state(model)))
    parameters = {name for name, _ in model.named_parameters()}
    counts = {name for name in snapshots[0] if name not in parameters}
    assert any("running_mean" in name for name in counts)
    kinds = set()
    for step in range(13):
        kind = scheme.stage(step).kind
        kinds.add(kind)
        moved = changed(snapshots[step], snapshots[step + 1])
        allowed = moving(kind, preset, model)
        assert moved & parameters <= allowed, (step, kind)
        # BatchNorm counts only where the features are trained.
        assert bool(moved & counts) == (kind != "maximise")
        for part in ("backbone", "classification_head", "mil_head"):
            inside = {name for name in allowed if f".{part}." in name}
            if part == "mil_head" and kind == "maximise" and preset == "code":
                assert not inside
            assert bool(moved & inside) == bool(inside), (step, kind, part)
    assert kinds == {"label", "maximise", "minimise"}


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_labels_of_unlabelled_images_are_never_read(preset):
    dataset = Dataset()  # whose other labels raise
    run({"preset": preset}, dataset)
    if preset == "paper":
        assert dataset.seen == set(range(7))
    else:
        assert len(dataset.seen) == 2 * len(LABELLED)


def test_without_instance_uncertainty_only_labelled_images_are_read():
    dataset = Dataset()
    run({"iul": False}, dataset)
    assert dataset.seen == set(LABELLED)


@pytest.mark.parametrize("stop", [4, 9])
def test_a_killed_training_ends_with_the_same_bytes(stop, tmp_path):
    changes = {"checkpoint_every": 1, "workers": 2}
    whole = run({"preset": "code"})

    def kill(step, *_):
        if step == stop + 1:
            raise KeyboardInterrupt

    path = tmp_path / "unfinished.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run({"preset": "code"}, progress=kill, checkpoint=path, changes=changes)
    again = run({"preset": "code"}, checkpoint=path, changes=changes)
    assert not changed(state(whole), state(again))
    with pytest.raises(SegalError, match="another training"):
        run({"preset": "code", "discrepancy": 1}, checkpoint=path, changes=changes)


def test_gradients_are_as_they_were_afterwards():
    assert all(parameter.requires_grad for parameter in run().parameters())


def test_it_is_validated_in_the_last_stage_alone():
    dataset = Dataset(readable=range(7))
    model, wide = network(), settings(validate_every=1)
    result = train(model, dataset, wide, seed=0, labelled=LABELLED, validation=dataset)
    start = MultipleInstance(MialSettings(), 13).stages[-1].start
    assert [step for step, _ in result.validations] == list(range(start + 1, 14))


def test_heads_disagree_more_about_unlabelled_images_when_trained_to():
    """Descent on each stage's loss of a batch, by what moves in it."""
    model, scheme = network(), MultipleInstance(MialSettings(weight="one"), 1)
    detector = two_heads(model)
    batch = [torch.from_numpy(draw(seed)[0]).permute(2, 0, 1) / 255 for seed in range(2)]

    def disagreement():
        outputs, _ = detector.outputs(batch, None)
        first, second = outputs.probabilities
        return (first - second).abs().mean().item()

    for stage, sign in ((MAXIMISE, 1), (MINIMISE, -1)):
        before = disagreement()
        names = moving(stage.kind, "paper", model)
        chosen = [parameter for name, parameter in model.named_parameters() if name in names]
        descent = torch.optim.SGD(chosen, 0.01)
        for _ in range(5):
            descent.zero_grad()
            scheme.unlabelled_loss(detector.outputs(batch, None)[0], stage).backward()
            descent.step()
        assert sign * (disagreement() - before) > 0


# Losses


def outputs(softmax=False):
    first, second, mil = torch.randn(
        3, 2, 5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    if softmax:
        first, second = first.log_softmax(-1) - 0.1, second.log_softmax(-1) - 0.1
    return HeadOutputs(first, second, mil, softmax, (3, 2))


def by_loops(found, image, weights):
    """Sum over anchors of the mean over classes of |w (p1 - p2)|."""
    total = 0.0
    for i in range(5):
        for c in range(3):
            p1, p2 = (1 / (1 + math.exp(-x[image, i, c])) for x in (found.first, found.second))
            total += abs(weights[image, i, c].item() * (p1 - p2)) / 3
    return total


@pytest.mark.parametrize("preset", ["paper", "code"])
@pytest.mark.parametrize("weight", ["mil", "one", "f1"])
def test_the_unlabelled_loss_by_loops(preset, weight):
    found = outputs()
    scheme = MultipleInstance(MialSettings(preset=preset, weight=weight, discrepancy=0.3), 1)
    weights = scheme.weights(found)
    if weight == "one":
        assert torch.allclose(weights, torch.full_like(weights, 1 / 5))
    elif weight == "f1":
        chances = found.first.sigmoid()
        assert torch.allclose(weights, chances / chances.sum(1, keepdim=True))
    else:
        assert torch.equal(weights, scheme.scores(found))
    each = [by_loops(found, image, weights) for image in range(2)]
    discrepancy = 0.3 * (sum(each) if preset == "code" else sum(each) / 2)
    assert scheme.unlabelled_loss(found, MAXIMISE).item() == pytest.approx(-discrepancy)

    mean = (found.first.sigmoid() + found.second.sigmoid()) / 2
    expected = 0.0
    for image in range(2):
        score = scheme.scores(found)[image]
        if preset == "paper":
            bag = score.sum(0)
        else:
            bag = torch.stack([score[:3].sum(0), score[3:].sum(0)]).amax(0)
        terms = []
        for c in range(3):
            present = max(mean[image, i, c].item() for i in range(5)) > 0.5
            terms.append(-math.log(bag[c] if present else 1 - bag[c]))
        expected += (sum(terms) if preset == "paper" else sum(terms) / 3) / 2
    found_loss = scheme.unlabelled_loss(found, MINIMISE).item()
    assert found_loss == pytest.approx(discrepancy + expected)


def test_the_mil_loss_is_of_the_set_that_is_named():
    found = outputs()
    losses = {
        where: MultipleInstance(MialSettings(weight="one", iur_set=where), 1)
        for where in ("none", "labelled", "all")
    }
    values = {where: one.unlabelled_loss(found, MINIMISE).item() for where, one in losses.items()}
    assert values["none"] == values["labelled"] < values["all"]
    batch = labelled_batch()
    detector = two_heads(network())
    torch.manual_seed(0)
    of_labels = {k: one.labelled_loss(detector, batch).item() for k, one in losses.items()}
    assert of_labels["none"] < of_labels["labelled"] == of_labels["all"]


def labelled_batch():
    images, objects = zip(*(draw(seed) for seed in (0, 4)), strict=True)
    pixels = torch.stack([torch.from_numpy(x).permute(2, 0, 1) / 255 for x in images])
    return Batch(pixels, Targets.of(objects, [(64, 96)] * 2))


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_the_labelled_loss_is_that_of_both_heads_and_of_multiple_instances(preset):
    batch, model = labelled_batch(), network()
    detector, scheme = two_heads(model), MultipleInstance(MialSettings(preset=preset), 1)
    found, losses = detector.outputs(list(batch.images), batch.labels.objects)
    classes = losses["classification"] + losses["second_classification"]
    expected = losses["bbox_regression"] + classes * (0.5 if preset == "code" else 1.0)
    present = shown(batch.labels.objects, 3)
    assert present[0].any() and not present[1].any()  # a negative is labelled all the same
    expected = expected + scheme.mil_losses(found, present).mean()
    assert scheme.labelled_loss(detector, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_images_without_a_pseudo_label_are_left_out_by_the_code():
    found = outputs()
    low = HeadOutputs(found.first - 9, found.second - 9, found.mil, False, (3, 2))
    code = MultipleInstance(MialSettings(preset="code"), 1)
    none = MultipleInstance(MialSettings(preset="code", iur_set="labelled"), 1)
    same = code.unlabelled_loss(low, MINIMISE).item()
    assert same == pytest.approx(none.unlabelled_loss(low, MINIMISE).item())
    paper = MultipleInstance(MialSettings(), 1).unlabelled_loss(low, MINIMISE).item()
    assert paper > same + 0.1


def test_scores_of_a_softmax():
    found = outputs(softmax=True)
    paper = MultipleInstance(MialSettings(), 1).scores(found)
    chances = ((found.first + found.second) / 2).exp()
    expected = found.mil.softmax(-1) * chances / chances.sum(1, keepdim=True)
    assert torch.allclose(paper, expected)


# What unlabelled batches are drawn from


def test_unlabelled_images():
    paper, code = (MultipleInstance(MialSettings(preset=p), 13) for p in ("paper", "code"))
    generator = np.random.default_rng(0)
    assert paper.unlabelled_images([1, 4], [0, 2, 3], generator) == [0, 2, 3]
    assert paper.unlabelled_images([1, 4], [], generator) == [1, 4]
    drawn = code.unlabelled_images([1, 4], [0, 2, 3, 5, 6], generator)
    assert len(set(drawn)) == 2
    assert set(drawn) < {0, 2, 3, 5, 6}
    topped = code.unlabelled_images([1, 4, 7], [0], generator)
    assert len(set(topped)) == 3
    assert 0 in topped
    assert set(topped) < {0, 1, 4, 7}
    assert code.unlabelled_images([1, 4], [], generator) == [1, 4]


def test_unlabelled_samples_are_the_images_as_they_are():
    dataset, scheme, plain = (
        Dataset(),
        MultipleInstance(MialSettings(), 13),
        settings(augment="none"),
    )
    transform = Detection().transform(plain, dataset.pool, [1, 3, 5])
    samples = UnlabelledSamples(dataset.pool, [1, 3, 5], scheme.no_label, transform, seed=0)
    for lap in range(2):
        drawn = [samples(3 * lap + place) for place in range(3)]
        for image, label in drawn:
            assert len(label) == 0
            assert any(np.array_equal(image, dataset.images[i]) for i in (1, 3, 5))
        assert len({image.tobytes() for image, _ in drawn}) == 3


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_unlabelled_batches_are_counted(preset):
    scheme = MultipleInstance(MialSettings(preset=preset), 26)
    before = [scheme.unlabelled_before(step) for step in range(27)]
    for step in range(26):
        assert before[step + 1] - before[step] == (scheme.stage(step).kind != "label")
    assert before[0] == 0


def test_all_images_may_be_labelled():
    dataset = Dataset(readable=range(7))
    run(dataset=dataset, labelled=None)
    assert dataset.seen == set(range(7))


# What is refused


def test_other_networks_are_refused():
    with pytest.raises(SegalError, match="no two class heads"):
        run(model=tiny_detectors.build("ssd"))


def test_other_tasks_are_refused():
    with pytest.raises(SegalError, match=r"train\.mial: not for segmentation"):
        Segmentation().training_scheme(settings())
    assert isinstance(Detection().training_scheme(settings()), MultipleInstance)


def test_settings_that_do_not_go_together():
    with pytest.raises(ValidationError, match="no learning_loss"):
        settings(learning_loss=True)
    with pytest.raises(ValidationError, match="at least 10"):
        settings(iterations=9)
    assert settings({"iul": False}, iterations=9).mial.kinds == ("label",)
    assert "mial" not in TrainSettings().identity()
    assert settings().identity()["mial"]["preset"] == "paper"
