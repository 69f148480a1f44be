"""Losses and class weights through the command line."""

import json

import pytest
import torch
from safetensors.torch import load_file

from segal.models.checkpoint import read_training
from segal.runs.history import read_history
from segal.scenes.synthetic import make_scenes
from tests.classified import CLASSES, make_features
from tests.quick_run import quick_run

NETWORK = ("--arch", "tests.tiny_network:build")
QUICK = (
    "train.iterations=2", "train.batch_size=2", "train.crop=64", "train.optimizer=adamw",
    "train.lr=0.001", "train.workers=0", "--threads", 1,
)  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, splits={"train": 6, "val": 2}, size=(64, 128), seed=0)
    return root


def flat(text):
    return " ".join(text.split())


def test_a_network_says_what_it_was_trained_by_and_strategies_heed_it(segal, scenes, tmp_path):
    trained = tmp_path / "model"
    code, _, stderr = segal(
        "train", "--data", scenes, "--validation", "val", "--out", trained, *NETWORK, *QUICK,
        "train.loss=dice+cross_entropy", "train.class_weights=balanced",
    )  # fmt: skip
    assert code == 0, stderr
    # Of 19 classes the made scenes lack some, which weights cannot be balanced for.
    assert "Balanced class weights leave out classes without a labelled pixel: '" in flat(stderr)
    assert "the network never predicts" in flat(stderr)
    settings = read_training(trained / "model.safetensors")["settings"]
    assert (settings["loss"], settings["class_weights"]) == ("cross_entropy+dice", "balanced")

    def select(strategy, *further):
        return segal(
            "select", "--images", scenes / "leftImg8bit" / "train", "--checkpoint",
            trained / "model.safetensors", *NETWORK, "--strategy", strategy, "--region", 32,
            "--budget", "10%", "--overlays", 0, "--threads", 1, "--out", tmp_path / strategy,
            *further,
        )  # fmt: skip

    reference = ("--reference", f"{scenes}:val", "--labelled", tmp_path / "badge")
    code, _, stderr = select("badge")
    assert code == 0, stderr
    notes = json.loads((tmp_path / "badge" / "summary.json").read_text())["notes"]
    (note,) = [note for note in notes if note.startswith("badge goes by gradients")]
    assert "cross_entropy+dice with class weights" in note
    code, _, stderr = select("isal", *reference)
    assert code == 2
    assert "isal: not of a network that is trained by cross_entropy+dice" in stderr
    assert "model.safetensors says" in flat(stderr)
    assert not (tmp_path / "isal").exists()
    code, _, stderr = segal(
        "explain", "--images", scenes / "leftImg8bit" / "train", "--checkpoint",
        trained / "model.safetensors", *NETWORK, "--reference", f"{scenes}:val",
        "--out", tmp_path / "explained", "score=influence",
    )  # fmt: skip
    assert code == 2
    assert "explain: not of a network that is trained by cross_entropy+dice" in stderr


def test_a_run_by_a_loss_of_ones_own(segal, scenes, tmp_path):
    config, out = tmp_path / "run.yaml", tmp_path / "run"
    raw = quick_run(
        scenes, {"loss": "focal", "class_weights": "balanced"}, strategy={"name": "badge"},
        budgets=["4"], overlays=0, measure_picks=False,
    )  # fmt: skip
    config.write_text(json.dumps(raw))
    code, _, stderr = segal("run", "--config", config, "--out", out)
    assert code == 0, stderr
    assert flat(stderr).index("badge goes by gradients") < flat(stderr).index("Round 0:")
    assert "(the network never predicts '" in flat(stderr)
    history = read_history(out)
    assert history.configuration["train"]["loss"] == "focal"
    assert history.configuration["train"]["class_weights"] == "balanced"
    notes = json.loads((out / "summary.json").read_text())["notes"]
    (never,) = [note for note in notes if "never predicts there" in note]
    assert never.startswith("Classes that test has and the network never predicts there: '")
    for r in history.rounds:
        confusion = r.metrics["test"]["confusion"]
        for i, name in enumerate(history.class_names):
            if not sum(confusion[i]) or sum(row[i] for row in confusion):
                continue
            assert f"'{name}'" in never or " more " in never
    assert any("balanced class weights are of the others" in note for note in notes)
    # The same run by another loss is another run.
    code, _, stderr = segal("run", "--config", config, "--out", out, "train.loss=dice")
    assert code == 2
    assert 'train.loss: "focal" in the folder, "dice" now' in flat(stderr)


@pytest.mark.parametrize("multilabel", [False, True])
def test_images_are_classified_by_their_losses(segal, tmp_path, multilabel):
    data = make_features(tmp_path / "data", multilabel=multilabel)
    task = "multilabel" if multilabel else "classification"
    weights = {}
    for name, changes in {
        "usual": (),
        "same": ("train.loss=cross_entropy", "train.class_weights=none"),
        "focal": ("train.loss=focal", "train.class_weights=balanced"),
        "sum": ("train.loss=focal+cross_entropy",),
        "listed": ("train.class_weights=" + ",".join(["1"] * (len(CLASSES) - 1) + ["50"]),),
    }.items():
        code, _, stderr = segal(
            "train", "--task", task, "--data", data, "--test", "test", "--out", tmp_path / name,
            "train.iterations=3", "train.batch_size=6", "train.workers=0", "--threads", 1, *changes,
        )  # fmt: skip
        assert code == 0, stderr
        weights[name] = load_file(tmp_path / name / "model.safetensors")
    usual = weights.pop("usual")
    assert all(torch.equal(value, usual[key]) for key, value in weights.pop("same").items())
    others = [torch.cat([v.flatten() for v in w.values()]) for w in (usual, *weights.values())]
    assert len({tuple(one.tolist()) for one in others}) == 4
    assert all(one.isfinite().all() for one in others)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (("train.class_weights=1,2,3",), "train.class_weights: 3 of them, for 19 classes"),
        (("train.class_weights=1,0,3",), "none, balanced, or for each class a factor"),
        (("train.loss=lovasz", "train.class_weights=balanced"), "a mean over classes without"),
        (("train.loss=dise",), "cross_entropy, focal, dice, lovasz, or the sum of two of them"),
        (("train.loss=dice", "task=classification"), "train.loss: dice, where an image has one"),
        (("train.loss=focal", "task=detection"), "train.loss: not for detection"),
    ],
)
def test_what_no_training_can_take_is_refused_before_it_starts(
    segal, scenes, tmp_path, changes, problem
):
    config, out = tmp_path / "run.yaml", tmp_path / "out"
    config.write_text(json.dumps(quick_run(scenes, strategy={"name": "random"})))
    shared = {key: value for key, value in quick_run(scenes).items() if key != "machine"}
    arms = [{"name": "random", "set": {"strategy": "random"}}]
    several = tmp_path / "compare.yaml"
    several.write_text(json.dumps({"run": shared, "arms": arms, "seeds": [0]}))
    keys = [change.replace("task=", "run.task=").replace("train.", "run.train.", 1)
            for change in changes]  # fmt: skip
    for call in (
        ("train", "--data", scenes, *NETWORK, *QUICK, *changes),
        ("run", "--config", config, *changes),
        ("compare", "--config", several, *keys),
    ):
        code, _, stderr = segal(*call, "--out", out)
        assert code == 2, stderr
        assert problem in flat(stderr).replace("run.train", "train"), stderr
        assert not list(out.glob("**/ledger.sqlite"))


def test_influence_is_refused_where_its_minimum_is_another(segal, scenes, tmp_path):
    config = tmp_path / "run.yaml"
    data = {"root": str(scenes), "validation": "val"}
    raw = quick_run(scenes, {"loss": "lovasz"}, data=data, strategy={"name": "isal"})
    config.write_text(json.dumps(raw))
    code, _, stderr = segal("run", "--config", config, "--out", tmp_path / "run", "train.lr=-1")
    assert code == 2
    assert "train.lr" in stderr
    code, _, stderr = segal("run", "--config", config, "--out", tmp_path / "run")
    assert code == 2
    assert "isal: not of a network that is trained by lovasz" in stderr
    assert "grad_similarity" in stderr
