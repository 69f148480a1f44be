"""`segal.select` of images that are classified, by any function: as from the command line."""

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

import segal as package
from segal.config import TrainConfig
from segal.errors import SegalError
from segal.jobs.train import run_training
from segal.models.callables import CallableNetwork
from segal.models.checkpoint import CheckpointOptions, load_checkpoint
from segal.models.wrapped import FEATURES
from segal.tasks.classification.model import ClassificationModel
from tests.classified import (
    CLASSES,
    DIMENSIONS,
    make_all,
)
from tests.tiny_classifier import SIDE, TinyClassifier, make_spec

TINY = "tests.tiny_classifier:build"
PLACES = {
    "folders": "folders/train",
    "tables": "tables/train.csv",
    "archive.npz": "archive.npz:x_train",
    "features": "features/train/features.npy",
    "several": "several/train.csv",
    "several_features": "several_features/train/features.npy",
}


def task_of(name):
    return "multilabel" if "several" in name else "classification"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data of every layout; only read."""
    return make_all(tmp_path_factory.mktemp("classified"))


@pytest.fixture(scope="module")
def trained(made, tmp_path_factory):
    """A network of every layout's data, trained a little: its file, and itself."""
    found = {}
    for name in PLACES:
        out = tmp_path_factory.mktemp("trained") / name
        model = {} if "features" in name else {"model": {"architecture": TINY}}
        raw = {
            "task": task_of(name), "data": {"root": made / name, "test": "test"}, "out": out,
            "train": {"iterations": 4, "batch_size": 6, "workers": 0, "crop": "image"},
            "machine": {"threads": 1}, **model,
        }  # fmt: skip
        found[name] = run_training(TrainConfig.model_validate(raw)).model
    return found


def network_of(path, name):
    """A trained network."""
    arch = None if "features" in name else TINY
    return load_checkpoint(path, CheckpointOptions(architecture=arch, task=task_of(name))).eval()


def picks(result):
    return [(pick.image, pick.box) for pick in result.picks]


FIRST = ("folders", "several_features")


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        *((name, "uwe") for name in PLACES),
        *((name, "entropy") for name in FIRST),
        *(
            pytest.param(name, "entropy", marks=pytest.mark.slow)
            for name in PLACES
            if name not in FIRST
        ),
    ],
)
def test_the_picks_of_the_command_line(segal, made, trained, tmp_path, name, strategy):
    images, task = f"{made}/{PLACES[name]}", task_of(name)
    arch = () if "features" in name else ("--arch", TINY)
    code, _, stderr = segal(
        "select", "--task", task, "--images", images, "--checkpoint", trained[name], *arch,
        "--budget", 5, "--strategy", strategy, "--overlays", 2, "--out", tmp_path / "cli",
    )  # fmt: skip
    assert code == 0, stderr
    model = network_of(trained[name], name)
    shapes = []

    def predict(batch):
        shapes.append(tuple(batch.shape[1:]))
        rows = batch[:, :, None, None] if "features" in name else batch
        features = batch if "features" in name else model.network.features(batch)
        return model.network(rows), features

    spec = model.spec
    fed = {} if "features" in name else {"mean": spec.mean, "std": spec.std}
    given = {"task": task, "budget": 5, "strategy": strategy, "overlays": 2, **fed}
    found = package.select(images, predict=predict, out=tmp_path / "own", **given)
    ours, theirs = (tmp_path / door / "selection.csv" for door in ("own", "cli"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert len(found.picks) == 5
    assert set(shapes) == {(DIMENSIONS,) if "features" in name else (3, 16, 16)}
    drawn = [sorted(p.name for p in (tmp_path / d / "overlays").iterdir()) for d in ("own", "cli")]
    assert drawn[0] == drawn[1]
    assert any(n.endswith(".png") for n in drawn[0]) == ("features" not in name)
    # As arrays, in batches, and in double precision.
    again = package.select(
        images,
        predict=lambda batch: tuple(x.double().numpy() for x in predict(batch)),
        out=tmp_path / "arrays",
        batch_size=4,
        **given,
    )
    assert picks(again) == picks(found)
    done = len(shapes)
    assert picks(package.select(images, predict=predict, out=tmp_path / "own", **given)) == picks(
        found
    )
    assert len(shapes) == done + 1, "one look, to know it by"


def test_the_example_of_the_documents(made, tmp_path, monkeypatch, capsys):
    """Its picks, against distances between all pairs in float64."""
    text = (Path(__file__).parents[2] / "docs" / "classification_data.md").read_text()
    shutil.copytree(made / "features", tmp_path / "features")
    monkeypatch.chdir(tmp_path / "features")
    names = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], names)
    values = np.load("train/features.npy").astype(np.float64)
    spread = softmax(names["probe"].decision_function(values), axis=1)
    embeddings = values * -(spread * np.log(spread)).sum(1, keepdims=True)
    rows = [int(pick.image.removeprefix("features/")) for pick in names["result"].picks]
    assert len(rows) == 4
    for i, row in enumerate(rows[1:], start=1):
        nearest = np.linalg.norm(embeddings[:, None] - embeddings[rows[:i]], axis=2).min(1)
        assert nearest[row] == pytest.approx(nearest.max(), rel=1e-5)
    assert capsys.readouterr().out.count("features/0000") == 4


def bright(batch):
    brightness = batch.flatten(1).mean(1, keepdim=True)
    return 9 * torch.cat([0.3 - brightness, brightness - 0.5, 0 * brightness], 1)


def options(made, tmp_path, **changes):
    given = {"images": made / "folders" / "train", "task": "classification", "budget": "10%"}
    return {**given, "strategy": "entropy", "out": tmp_path / "out", "overlays": 0, **changes}


def test_budgets_are_of_images(made, tmp_path):
    for budget, count in (("25%", 6), ("7img", 7), (3, 3)):
        out = tmp_path / str(count)
        found = package.select(**options(made, tmp_path, budget=budget, out=out), predict=bright)
        assert len(found.picks) == count
        assert {pick.box for pick in found.picks} == {(0, 0, 1, 1)}


def test_one_output_is_two_classes_or_one_label(made, tmp_path):
    """Picked are the images whose probability is nearest to one half, in float64."""

    def one(batch):
        return (batch.flatten(1).mean(1, keepdim=True) - 0.3) * 5

    images = sorted((made / "folders" / "train").rglob("*.png"))
    means = [np.float64(cv2.imread(str(path)).mean() / 255) for path in images]
    nearest = np.argsort([abs(mean - 0.3) for mean in means])[:4]
    names = {images[i].relative_to(made / "folders" / "train").as_posix() for i in nearest}
    for task in ("classification", "multilabel"):
        given = options(made, tmp_path, task=task, budget=4, out=tmp_path / task)
        found = package.select(**given, predict=one)
        assert {pick.image for pick in found.picks} == names, task


def test_images_of_any_size_are_brought_to_a_side(tmp_path):
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(20, 31), (40, 24), (64, 64)]):
        path = tmp_path / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3), np.uint8))
    shapes = set()

    def predict(batch):
        shapes.add(tuple(batch.shape[1:]))
        return bright(batch)

    given = {"task": "classification", "strategy": "entropy", "budget": 1, "overlays": 0}
    package.select(
        tmp_path / "images", predict=predict, out=tmp_path / "out",
        model={"input_side": 16}, batch_size=3, **given,
    )  # fmt: skip
    assert shapes == {(3, 16, 16)}
    shapes.clear()
    package.select(tmp_path / "images", predict=predict, out=tmp_path / "as_they_are", **given)
    assert shapes == {(3, 20, 31), (3, 40, 24), (3, 64, 64)}


def test_the_first_image_that_cannot_be_read_is_skipped(made, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path / "images" / "1.png"), np.full((20, 18, 3), 90, np.uint8))
    given = options(made, tmp_path, images=tmp_path / "images", budget=1)
    with pytest.raises(SegalError, match=r"0\.png"):
        package.select(**given, predict=bright)
    found = package.select(**given, predict=bright, skip_unreadable=True)
    assert [pick.image for pick in found.picks] == ["1.png"]


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        ("badge", "badge: predict gives logits and features"),
        ("gradnorm", "gradnorm: predict gives logits and features"),
        ("err_reduction", "err_reduction: predict gives logits and features"),
        ("learning_loss", "learning_loss: predict gives logits and features"),
        ("mc_dropout", "predict: no dropout on the way to its logits"),
        ("error_change", "reference: missing"),
    ],
)
def test_strategies_that_need_more_are_refused(made, tmp_path, strategy, why):
    def with_features(batch):
        return bright(batch), batch.mean((2, 3))

    with pytest.raises(SegalError) as caught:
        package.select(**options(made, tmp_path, strategy=strategy), predict=with_features)
    assert caught.value.problem.startswith(why)
    assert not (tmp_path / "out").exists()


def test_features_that_are_not_given_are_asked_for(made, tmp_path):
    with pytest.raises(SegalError, match="uwe: predict gives logits alone"):
        package.select(**options(made, tmp_path, strategy="uwe"), predict=bright)


def fails(batch):
    raise KeyError("pixel_values")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predict": fails}, "KeyError: 'pixel_values'"),
        ({"predict": fails}, "give model.input_side where it takes one size"),
        ({"predict": lambda x: bright(x)[:, :, None, None]}, "expected: logits (B, C), a floating"),
        ({"predict": lambda x: bright(x).argmax(1)}, "no logits in what it returns"),
        ({"predict": lambda x: bright(x)[0]}, "no logits in what it returns"),
        ({"predict": lambda x: (bright(x), x)}, "no logits in what it returns"),
        ({"predict": lambda x: bright(x).softmax(1)}, "its outputs are probabilities"),
        ({"predict": lambda x: bright(x)[:, :1].sigmoid()}, "its outputs are probabilities"),
        ({"predict": lambda x: bright(x) * float("nan")}, "entropy is not finite"),
        ({"predict": bright, "stride": 8}, "stride: not with predict"),
        ({"predict": bright, "model": {"input_scale": 0.5}}, "model.input_scale: not with predict"),
        ({"predict": bright, "class_names": ("a", "b")}, "3 names"),
        ({"predict": bright, "region": 512}, "region: 512, where images have a class as wholes"),
        ({"predict": bright, "task": "sorting"}, "task"),
    ],
)
def test_mistakes_are_said(made, tmp_path, change, message):
    with pytest.raises(SegalError) as caught:
        package.select(**options(made, tmp_path, **change))
    assert message in str(caught.value)


def test_input_side_is_of_whole_images(image_folder, tmp_path):
    with pytest.raises(SegalError, match=r"model\.input_side: not with predict"):
        package.select(
            image_folder, predict=lambda x: x, out=tmp_path / "out", budget=1,
            model={"input_side": 16},
        )  # fmt: skip


@pytest.mark.parametrize("name", ["features", "several_features"])
def test_features_are_given_as_they_are(made, tmp_path, name):
    given = options(made, tmp_path, images=made / PLACES[name], task=task_of(name))
    with pytest.raises(SegalError, match=r"model\.mean: not with predict"):
        package.select(**given, predict=lambda x: x, mean=(0.5,), std=(1.0,))
    with pytest.raises(SegalError, match=f"it failed on the {DIMENSIONS} features of an image"):
        package.select(**given, predict=fails)


def test_what_holds_no_images_is_said_before_the_function_is_called(made, tmp_path):
    for images, message in (
        (f"{made / 'archive.npz'}:y_train", r"archive\.npz/y_train: neither pictures nor features"),
        (made / "nowhere", "nowhere: no such folder"),
        (made / "features" / "classes.txt", "names files that are no images"),
    ):
        with pytest.raises(SegalError, match=message):
            package.select(**options(made, tmp_path, images=images), predict=fails)


def squashed(batch):
    return bright(batch).sigmoid()


@pytest.mark.parametrize(
    "function",
    [squashed, lambda x: squashed(x).numpy(), lambda x: {"logits": squashed(x).half()}],
    ids=["tensor", "array", "named"],
)
def test_probabilities_of_several_labels_are_refused(made, tmp_path, function):
    given = options(made, tmp_path, images=made / PLACES["several"], task="multilabel")
    with pytest.raises(SegalError, match="its outputs are probabilities"):
        package.select(**given, predict=function)


def test_what_may_be_probabilities_is_told(made, tmp_path):
    """A sigmoid of NumPy leaves no trace but its values."""
    given = options(made, tmp_path, images=made / PLACES["several"], task="multilabel")
    found = package.select(**given, predict=lambda x: 1 / (1 + np.exp(-bright(x).numpy())))
    assert any("lies between 0 and 1" in note for note in found.summary["notes"])
    given["out"] = tmp_path / "logits"
    found = package.select(**given, predict=bright)
    assert not any("between 0 and 1" in note for note in found.summary["notes"])


def test_a_network_that_gates_with_sigmoids_gives_logits(made, tmp_path):
    torch.manual_seed(0)
    last = nn.Linear(3, len(CLASSES))

    def gated(batch):
        means = batch.mean((2, 3))
        return last(means * means.sigmoid())

    given = options(made, tmp_path, images=made / PLACES["several"], task="multilabel")
    assert package.select(**given, predict=gated).picks


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_evidence_of_a_function_is_that_of_the_network(task):
    torch.manual_seed(0)
    network = TinyClassifier(4).eval()
    spec = make_spec(task)
    images = torch.randn(5, 3, SIDE, SIDE)

    def predict(batch):
        return network(batch), network.features(batch)

    function = CallableNetwork(predict, spec)
    assert function.look(images[:1])[0] == 4
    with torch.no_grad():
        by_function = ClassificationModel(function, spec).eval()(images, (FEATURES,))
        own = ClassificationModel(network, spec).eval()(images, (FEATURES,))
    torch.testing.assert_close(by_function.logits, own.logits)
    torch.testing.assert_close(by_function.features, own.features)
    assert by_function.upsampling == own.upsampling
