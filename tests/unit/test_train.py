import copy
import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from torch import nn

from segal.data.datasets import open_dataset
from segal.errors import SegalError
from segal.models.spec import ModelSpec
from segal.tasks.segmentation.model import SegmentationModel
from segal.tasks.segmentation.task import Segmentation
from segal.training.loop import TrainSettings, train
from segal.training.sampling import LabelledRegions
from tests.batched import Batched

CLASSES = ("dark", "light", "red")


class Network(nn.Module):
    """Small, with everything that has a mode or a state: BatchNorm and dropout."""

    def __init__(self, norm=True):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(0.2 if norm else 0.0)
        self.head = nn.Conv2d(8, len(CLASSES), 1)

    def forward(self, images):
        low = self.head(self.dropout(self.norm(self.body(images)).relu()))
        return F.interpolate(low, images.shape[-2:], mode="bilinear", align_corners=True)


def make_model(seed=0, norm=True):
    torch.manual_seed(seed)
    spec = ModelSpec("own", "", CLASSES, (0.5,) * 3, (0.25,) * 3, stride=2)
    return SegmentationModel(Network(norm), spec)


class Pool(Batched):
    """Images in memory that notes which of them were read."""

    unit = "pixels"

    def __init__(self, images):
        self.images, self.seen = images, set()
        self.root = "memory"
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


def relabelled(image, **options):
    """A data set with another label for one image."""
    dataset = Dataset(**options)
    dataset.labels[image] = 2 - dataset.labels[image]
    return dataset


class Dataset:
    """Patches of three colours, with noise; the labels are the colours."""

    def __init__(self, count=6, seed=0, size=(24, 36)):
        generator = np.random.default_rng(seed)
        height, width = size
        palette = np.array([[40, 40, 40], [220, 220, 220], [210, 30, 30]])
        self.labels, self.images = [], []
        for _ in range(count):
            label = np.kron(
                generator.integers(0, 3, (height // 12, width // 12)), np.ones((12, 12))
            )
            image = palette[label.astype(int)] + generator.normal(0, 15, (height, width, 3))
            self.labels.append(label.astype(np.uint8))
            self.images.append(image.clip(0, 255).astype(np.uint8))
        self.pool = Pool(self.images)
        self.classes = SimpleNamespace(names=CLASSES)

    def __len__(self):
        return len(self.labels)

    def subset(self, indices):
        part = copy.copy(self)
        part.labels = [self.labels[i] for i in indices]
        part.pool = Pool([self.images[i] for i in indices])
        part.pool.paths = [self.pool.paths[i] for i in indices]
        return part

    def read_label(self, index):
        return self.labels[index]

    def digest(self, indices=None):
        chosen = range(len(self.labels)) if indices is None else indices
        return hashlib.sha256(b"".join(self.labels[i].tobytes() for i in chosen)).hexdigest()


def settings(**changes):
    return TrainSettings(
        **{"iterations": 12, "batch_size": 3, "crop": 16, "lr": 0.05, "workers": 0, **changes}
    )


def weights(model):
    return {key: value.clone() for key, value in model.network.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


BOXES = {0: [(0, 0, 12, 12), (24, 12, 36, 24)], 3: [(12, 0, 24, 12)]}


def test_learns():
    model = make_model()
    losses = []
    result = train(
        model,
        Dataset(),
        settings(iterations=60),
        seed=0,
        progress=lambda step, total, loss: losses.append((step, total, loss)),
    )
    assert [step for step, _, _ in losses] == list(range(1, 61))
    assert result.steps == 60
    assert result.loss == losses[-1][2] < losses[0][2] / 2
    assert not model.training
    assert Segmentation().evaluate(model, Dataset(seed=1)).miou > 0.8


def test_data_set_on_disk(tmp_path):
    made = Dataset()
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for index, (image, label) in enumerate(zip(made.images, made.labels, strict=True)):
            Image.fromarray(image).save(tmp_path / "images" / split / f"{index}.png")
            Image.fromarray(label).save(tmp_path / "labels" / split / f"{index}.png")
    names = "".join(f"{index} {name}\n" for index, name in enumerate(CLASSES))
    (tmp_path / "classes.txt").write_text(names)
    training, validation = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val")
    on_disk, in_memory = make_model(), make_model()
    result = train(
        on_disk,
        training,
        settings(workers=2),
        seed=0,
        labelled=BOXES,
        validation=validation,
    )
    expected = train(
        in_memory, made, settings(workers=2), seed=0, labelled=BOXES, validation=Dataset()
    )
    assert result.validations == expected.validations
    assert_same(weights(on_disk), weights(in_memory))


@pytest.mark.parametrize("crop", [16, "10x30", "image"])
def test_labels_outside_the_regions_are_never_used(crop):
    results = []
    for garbage in (None, 0, 77):  # 77 is no class at all
        dataset, model = Dataset(), make_model()
        for index, label in enumerate(dataset.labels):
            if garbage is not None:
                inside = np.zeros(label.shape, bool)
                for x0, y0, x1, y1 in BOXES.get(index, []):
                    inside[y0:y1, x0:x1] = True
                label[~inside] = garbage
        losses = []
        train(
            model,
            dataset,
            settings(crop=crop),
            seed=3,
            labelled=BOXES,
            progress=lambda step, total, loss, losses=losses: losses.append(loss),
        )
        assert dataset.pool.seen == {0, 3}, "images without labelled regions are not read"
        results.append((weights(model), losses))
    for other, losses in results[1:]:
        assert losses == results[0][1]
        assert_same(other, results[0][0])


def test_workers_do_not_change_the_weights_and_the_seed_does():
    results = []
    for workers, seed in ((0, 0), (1, 0), (4, 0), (0, 1)):
        model = make_model()
        torch.manual_seed(workers + 100)  # the caller's random state does not matter
        train(model, Dataset(), settings(workers=workers), seed=seed, labelled=BOXES)
        results.append(weights(model))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])
    assert not torch.equal(results[0]["head.weight"], results[3]["head.weight"])


def test_random_state_of_the_caller_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model = make_model()
    torch.manual_seed(5)
    train(model, Dataset(), settings(iterations=2), seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_steps_are_those_of_torch_with_the_poly_schedule():
    dataset, model = Dataset(count=2), make_model(norm=False)
    chosen = settings(
        iterations=5, batch_size=2, crop="image", scale=(1, 1), flip=0, colour_jitter=0
    )
    train(model, dataset, chosen, seed=0)

    reference = make_model(norm=False)
    optimizer = torch.optim.SGD(reference.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    images = reference.normalise(torch.from_numpy(np.stack(dataset.images)))
    labels = torch.from_numpy(np.stack(dataset.labels)).long()
    for step in range(5):
        optimizer.param_groups[0]["lr"] = (0.05 - 0.0005) * (1 - step / 5) ** 0.9 + 0.0005
        optimizer.zero_grad()
        F.cross_entropy(reference.network(images), labels).backward()
        optimizer.step()
    for key, value in weights(reference).items():
        torch.testing.assert_close(model.network.state_dict()[key], value)


class Killed(Exception):
    pass


def kill_at(last):
    def progress(step, total, loss):
        if step == last:
            raise Killed

    return progress


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "lr": 0.003, "grad_clip": 0.5},
        {"precision": "bf16"},
        {"precision": "fp16", "optimizer": "adamw", "lr": 0.003},
    ],
)
def test_killed_training_resumes_to_the_same_weights(tmp_path, changes):
    chosen = settings(checkpoint_every=3, validate_every=4, **changes)
    validation = Dataset(seed=9, count=2)
    whole = make_model()
    expected = train(whole, Dataset(), chosen, seed=1, labelled=BOXES, validation=validation)

    path = tmp_path / "state.safetensors"
    arguments = {"seed": 1, "labelled": BOXES, "validation": validation, "checkpoint": path}
    for last in (2, 5, 8):  # nothing saved yet, then twice in between
        with pytest.raises(Killed):
            train(make_model(), Dataset(), chosen, **arguments, progress=kill_at(last))
    model, steps = make_model(), []
    result = train(
        model,
        Dataset(),
        chosen,
        **arguments,
        progress=lambda step, total, loss: steps.append(step),
    )
    assert steps == list(range(7, 13))
    assert_same(weights(model), weights(whole))
    assert result.validations == expected.validations
    assert (result.best_step, result.loss) == (expected.best_step, expected.loss)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("seed", {"seed": 2}),
        ("settings", {"settings": settings(checkpoint_every=3, lr=0.04)}),
        ("labelled regions", {"labelled": {**BOXES, 0: BOXES[0][:1]}}),
        ("images", {"dataset": Dataset(count=7)}),
        ("labels", {"dataset": relabelled(3)}),
        ("validation images, another validation labels", {"validation": Dataset(count=2)}),
        ("settings", {"settings": settings(checkpoint_every=3, class_weights="1,1,2")}),
        ("settings", {"settings": settings(checkpoint_every=3, loss="dice")}),
        ("network", {"model": make_model(seed=1)}),
    ],
)
def test_checkpoint_of_another_training_is_refused(tmp_path, what, change):
    arguments = {
        "model": make_model(),
        "dataset": Dataset(),
        "settings": settings(checkpoint_every=3),
        "seed": 1,
        "labelled": BOXES,
        "checkpoint": tmp_path / "state.safetensors",
    }
    with pytest.raises(Killed):
        train(**arguments, progress=kill_at(4))
    arguments["model"] = make_model()
    with pytest.raises(SegalError, match=f"got: another {what}\n"):
        train(**{**arguments, **change})


def test_a_training_goes_on_only_with_the_labels_it_used(tmp_path):
    path = tmp_path / "state.safetensors"
    arguments = {
        "settings": settings(checkpoint_every=3), "seed": 1, "labelled": BOXES, "checkpoint": path,
    }  # fmt: skip
    with pytest.raises(Killed):
        train(
            make_model(), Dataset(), **arguments, validation=Dataset(count=2), progress=kill_at(4)
        )
    with pytest.raises(SegalError, match="got: another validation labels\n"):
        train(make_model(), Dataset(), **arguments, validation=relabelled(1, count=2))
    # Image 1 has no labelled region.
    train(make_model(), relabelled(1), **arguments, validation=Dataset(count=2))


def test_settings_that_only_change_speed_may_differ(tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train(
            make_model(),
            Dataset(),
            settings(checkpoint_every=3),
            seed=1,
            checkpoint=path,
            progress=kill_at(4),
        )
    model, whole = make_model(), make_model()
    train(model, Dataset(), settings(checkpoint_every=5, workers=2), seed=1, checkpoint=path)
    train(whole, Dataset(), settings(), seed=1)
    assert_same(weights(model), weights(whole))


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "other"])
def test_damaged_checkpoint_is_refused(tmp_path, damage):
    path = tmp_path / "state.safetensors"
    chosen = settings(checkpoint_every=3)
    with pytest.raises(Killed):
        train(make_model(), Dataset(), chosen, seed=1, checkpoint=path, progress=kill_at(4))
    data = path.read_bytes()
    changed = {
        "truncated": data[:-5],
        "empty": b"",
        "text": b"hello",
        "other": data.replace(b"segal training", b"other trainings"[:14]),
    }
    path.write_bytes(changed[damage])
    with pytest.raises(SegalError, match="damaged"):
        train(make_model(), Dataset(), chosen, seed=1, checkpoint=path)


def test_divergence_is_an_error_that_names_the_step():
    with pytest.raises(SegalError, match=r"diverged at step \d+") as caught:
        train(make_model(), Dataset(), settings(lr=1e4, iterations=60), seed=0)
    assert "lower lr" in caught.value.remedy


class Brittle(Network):
    """Its loss stays finite while weight decay drives a parameter out of float32's range."""

    def __init__(self):
        super().__init__()
        self.huge = nn.Parameter(torch.tensor(3e38))

    def forward(self, images):
        return super().forward(images) + 0 * self.huge


def test_divergence_in_the_last_step_is_seen():
    model = SegmentationModel(Brittle(), make_model().spec)
    with pytest.raises(SegalError, match="diverged at step 1") as caught:
        train(model, Dataset(), settings(iterations=1, lr=1e4), seed=0)
    assert "huge" in caught.value.got


def test_frozen_batchnorm_stays_as_it_is():
    model = make_model()
    before = weights(model)
    train(model, Dataset(), settings(batchnorm="frozen", batch_size=1), seed=0)
    after = weights(model)
    for key, value in before.items():
        assert torch.equal(value, after[key]) == key.startswith("norm."), key
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_nothing_but_void_in_the_crops_does_no_harm():
    dataset = Dataset()
    for label in dataset.labels:
        label[:] = 255
    with pytest.raises(SegalError, match="nothing is labelled"):
        train(make_model(), dataset, settings(), seed=0)
    boxes = {i: [(0, 0, 36, 24)] for i in range(6)}
    dataset.labels[5][:, :18] = 1
    with pytest.raises(SegalError, match="7 regions that are void all over"):
        void = boxes | {5: [(18, 0, 36, 24), (18, 0, 36, 12)]}
        train(make_model(), dataset, settings(), seed=0, labelled=void)
    model, losses = make_model(), []
    train(
        model,
        dataset,
        settings(),
        seed=0,
        labelled=boxes,
        progress=lambda step, total, loss: losses.append(loss),
    )
    assert 0 < losses.count(0.0) < 12
    assert all(value.isfinite().all() for value in weights(model).values())


def test_images_of_several_sizes():
    dataset = Dataset(count=3)
    dataset.images[1], dataset.labels[1] = dataset.images[1][:12], dataset.labels[1][:12]
    for crop in ("image", 512):
        model = make_model()
        train(model, dataset, settings(crop=crop, iterations=4), seed=0)
        assert all(value.isfinite().all() for value in weights(model).values())


class ScriptedTask(Segmentation):
    """Says what a validation finds."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.seen = list(scores), []

    def evaluate(self, model, dataset, **_):
        self.seen.append(weights(model))
        return SimpleNamespace(score=self.scores[len(self.seen) - 1])


def test_best_weights_are_kept_and_training_stops_early():
    task, model = ScriptedTask([0.2, float("nan"), 0.5, 0.5, 0.4, 0.9]), make_model()
    result = train(
        model,
        Dataset(),
        settings(validate_every=2, patience=2),
        seed=0,
        validation=Dataset(),
        task=task,
    )
    assert result.steps == 10
    assert result.best_step == 6
    assert [step for step, _ in result.validations] == [2, 4, 6, 8, 10]
    assert_same(weights(model), task.seen[2])


def test_without_patience_all_steps_are_taken_and_the_last_is_validated():
    task = ScriptedTask([0.1] * 9)
    chosen = settings(iterations=13, validate_every=None)
    result = train(make_model(), Dataset(), chosen, seed=0, validation=Dataset(), task=task)
    assert [step for step, _ in result.validations] == [2, 4, 6, 8, 10, 12, 13]
    assert result.best_step == 2


@pytest.mark.parametrize(
    ("labelled", "message"),
    [
        ({}, "nothing is labelled"),
        ({0: []}, "nothing is labelled"),
        ({0: [(0, 0, 37, 5)]}, "image 0: a labelled region is not inside"),
        ({0: [(4, 4, 4, 8)]}, "not inside"),
        ({0: [(-1, 0, 4, 8)]}, "not inside"),
        ({6: [(0, 0, 1, 1)]}, "image 6"),
    ],
)
def test_bad_regions(labelled, message):
    with pytest.raises(SegalError, match=message):
        train(make_model(), Dataset(), settings(), seed=0, labelled=labelled)


def test_regions_are_drawn_by_their_pixels():
    boxes = {0: [(0, 0, 10, 10)], 1: [(0, 0, 30, 10), (0, 10, 20, 20)], 4: [(0, 0, 20, 10)]}
    regions = LabelledRegions.of(Dataset(), boxes)
    counts = np.zeros(4)
    for seed in range(200):
        drawn = np.bincount(regions.order(np.random.default_rng(seed)), minlength=4)
        share = 4 * np.array([100, 300, 200, 200]) / 800
        assert (np.abs(drawn - share) < 1).all()
        counts += drawn
    np.testing.assert_allclose(counts / counts.sum(), [1 / 8, 3 / 8, 1 / 4, 1 / 4], atol=0.02)


def test_regions_of_equal_size_are_drawn_once_a_lap():
    boxes = {i: [(x, 0, x + 12, 12) for x in (0, 12, 24)] for i in range(6)}
    regions = LabelledRegions.of(Dataset(), boxes)
    orders = [regions.order(np.random.default_rng(seed)) for seed in range(3)]
    for order in orders:
        assert sorted(order) == list(range(18))
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"crop": "abc"},
        {"crop": 0},
        {"iterations": 0},
        {"lr": -1},
        {"lr": float("nan")},
        {"min_lr": 1.0},
        {"batch_size": 1},
        {"scale": (2, 0.5)},
        {"scale": (0, 1)},
        {"scale": "1"},
        {"scale": "0.5,1,2"},
        {"scale": "a,b"},
        {"optimiser": "sgd"},
        {"precision": "int8"},
        {"patience": 0},
    ],
)
def test_bad_settings(changes):
    with pytest.raises(ValidationError):
        settings(**changes)


def test_settings_are_read_from_text():
    read = TrainSettings.model_validate({"crop": 256, "lr": "1e-3", "scale": ["0.5", "1"]})
    assert (read.crop, read.lr, read.scale) == ("256", 1e-3, (0.5, 1.0))
    assert TrainSettings.model_validate({"scale": "0.5, 2"}).scale == (0.5, 2.0)
    assert TrainSettings.model_validate_json(read.model_dump_json()) == read


@pytest.mark.parametrize("which", ["dataset", "validation"])
def test_other_classes_are_refused_before_the_first_step(which):
    other = Dataset()
    other.classes = SimpleNamespace(names=("a", "b"))
    arguments = {"dataset": Dataset(), "validation": Dataset(), which: other}
    with pytest.raises(SegalError, match="labels of other classes"):
        train(make_model(), settings=settings(), seed=0, progress=kill_at(1), **arguments)


def test_what_overlapping_regions_share_is_drawn_once():
    """The draws of regions, spread evenly over their own pixels, meet each labelled pixel alike."""
    boxes = {0: [(0, 0, 10, 10), (5, 0, 15, 10), (2, 2, 9, 9), (0, 10, 20, 20)]}
    regions = LabelledRegions.of(Dataset(), boxes)
    seen, own = np.zeros((20, 20), bool), []
    for x0, y0, x1, y1 in boxes[0]:
        own.append(int((~seen[y0:y1, x0:x1]).sum()))
        seen[y0:y1, x0:x1] = True
    assert regions.pixels.tolist() == own == [100, 50, 0, 200]
    drawn = sum(
        np.bincount(regions.order(np.random.default_rng(seed)), minlength=4) for seed in range(700)
    )
    np.testing.assert_allclose(drawn / drawn.sum(), np.array(own) / sum(own), atol=0.02)
