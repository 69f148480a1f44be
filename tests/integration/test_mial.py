"""MIAL from the command line: a run, a training on a selection, and what is refused."""

import csv
import json
from pathlib import Path

import cv2
import pytest
import torch
from safetensors.torch import load_file

from segal.errors import SegalError
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run
from tests.boxed import make_set
from tests.classified import make_archive, make_features

TINY = "tests.tiny_detectors:small_mial_ssd"
QUICK = {
    "iterations": 13, "batch_size": 2, "workers": 0, "validate_every": 0, "crop": "image",
    "lr": 0.002, "grad_clip": 1.0, "colour_jitter": 0, "mial": {"preset": "code"},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data; only read."""
    return make_set(tmp_path_factory.mktemp("boxed"), "voc")


def raw_run(made, out, **changes):
    return {
        "task": "detection", "data": {"root": str(made), "validation": "", "test": "test"},
        "model": {"architecture": TINY}, "train": QUICK, "seed_set": "4img",
        "budgets": ["3img"], "strategy": {"name": "mial", "preset": "code", "k": 50},
        "overlays": 1, "machine": {"threads": 1}, "out": out,
    } | changes  # fmt: skip


def test_a_run_picks_the_largest_discrepancy(made, tmp_path):
    config, strategy = configure_run(raw_run(made, tmp_path / "run"))
    history = run_rounds(config, strategy).history
    assert [round.cost.images for round in history.rounds] == pytest.approx([4, 7])
    path = next((tmp_path / "run").rglob("selection.csv"))
    with path.open(newline="") as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0
    (picture,) = (tmp_path / "run").rglob("overlays/*.png")
    height, width = cv2.imread(str(picture)).shape[:2]
    assert height > width  # three rows of panels: boxes, and the maps of figure 6
    (picks,) = (tmp_path / "run").rglob("picks.json")
    picked = json.loads(picks.read_text())
    assert 0 <= picked["mistakes"] <= 1
    assert picked["objects_found"] >= 0


def test_a_training_on_a_selection_looks_at_the_other_images_alone(segal, tmp_path):
    """Those that were not picked are unlabelled: pixels count, labels may be missing."""
    data = make_set(tmp_path / "yolo", "yolo")
    settings = [f"train.{key}={value}" for key, value in QUICK.items() if key != "mial"]

    def train(name, *options):
        out = tmp_path / name
        code, _, stderr = segal(
            "train", "--task", "detection", "--data", data, "--arch", TINY, *settings,
            "train.mial.preset=paper", "--out", out, *options,
        )  # fmt: skip
        assert code == 0, stderr
        return out / "model.safetensors"

    picked = tmp_path / "picked"
    code, _, stderr = segal(
        "select", "--task", "detection", "--images", data / "images" / "train", "--arch", TINY,
        "--checkpoint", train("first"), "--strategy", "mial", "strategy.k=20", "--budget", "3img",
        "--overlays", 0, "--out", picked,
    )  # fmt: skip
    assert code == 0, stderr
    with (picked / "selection.csv").open(newline="") as file:
        names = {Path(row["image"]).stem for row in csv.DictReader(file)}
    assert len(names) == 3
    others = [p for p in (data / "images" / "train").iterdir() if p.stem not in names]
    whole = load_file(train("whole", "--labelled", picked))
    for path in others:
        (data / "labels" / "train" / f"{path.stem}.txt").unlink(missing_ok=True)
    unknown = load_file(train("unknown", "--labelled", picked))
    assert all(torch.equal(value, unknown[name]) for name, value in whole.items())
    for path in others:
        cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    other = load_file(train("other", "--labelled", picked))
    assert not all(torch.equal(value, other[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {**QUICK, "mial": False}}, r"train\.mial: false[\s\S]*train\.mial=true"),
        ({"strategy": {"name": "mial", "k": 0}}, r"strategy\.k"),
        ({"train": {**QUICK, "mial": {"lambda": 1}}}, r"train\.mial\.lambda"),
    ],
)
def test_what_does_not_go_together_is_refused(made, tmp_path, changes, message):
    with pytest.raises(SegalError, match=message):
        configure_run(raw_run(made, tmp_path / "run", **changes))


def test_a_network_without_two_heads_is_refused(made, tmp_path):
    plain = {"architecture": "tests.tiny_detectors:small_ssd"}
    config, strategy = configure_run(raw_run(made, tmp_path / "run", model=plain))
    with pytest.raises(SegalError, match=r"no two class heads[\s\S]*mial_retinanet"):
        run_rounds(config, strategy)


# Images that are classified


OF_IMAGES = {
    "task": "classification", "model": {"architecture": "tests.tiny_classifier:build"},
    "train": {**QUICK, "mial": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Pictures with a class each; only read."""
    return make_archive(tmp_path_factory.mktemp("classified") / "pictures.npz")


def test_a_run_and_a_selection_by_two_heads_about_images(segal, archive, tmp_path):
    raw = raw_run(archive, tmp_path / "run", **OF_IMAGES)
    history = run_rounds(*configure_run(raw)).history
    assert [round.cost.images for round in history.rounds] == pytest.approx([4, 7])
    path = next((tmp_path / "run").rglob("selection.csv"))
    with path.open(newline="") as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0
    first, last = sorted((tmp_path / "run").rglob("model.safetensors"))
    assert {"second_head/weight", "second_head/bias"} < load_file(first).keys()
    # The checkpoint of a run, with its second head, selects by itself.
    code, _, stderr = segal(
        "select", "--task", "classification", "--images", f"{archive}:x_train",
        "--checkpoint", last, "--arch", OF_IMAGES["model"]["architecture"], "--strategy", "mial",
        "--budget", "3img", "--out", tmp_path / "picked",
    )  # fmt: skip
    assert code == 0, stderr


@pytest.mark.slow
def test_arms_of_a_comparison_are_trained_each_its_way(segal, archive, tmp_path):
    run = {**raw_run(str(archive), "", **OF_IMAGES), "overlays": 0}
    for key in ("out", "machine", "strategy"):
        run.pop(key)
    usual = {**QUICK, "mial": False}
    raw = {
        "run": run, "seeds": [0], "baseline": "random", "machine": {"threads": 1},
        "arms": [
            {"name": "random", "set": {"strategy": {"name": "random"}, "train": usual}},
            {"name": "random-mial", "set": {"strategy": {"name": "random"}}},
            {"name": "mial", "set": {"strategy": {"name": "mial", "preset": "code"}}},
        ],
        "out": str(tmp_path / "out"),
    }  # fmt: skip
    config = tmp_path / "compare.yaml"
    config.write_text(json.dumps(raw))
    code, _, stderr = segal("compare", "--config", config)
    assert code == 0, stderr
    assert (tmp_path / "out" / "report.html").exists()


def test_a_last_layer_alone_is_not_trained_so(tmp_path):
    root = make_features(tmp_path / "features")
    raw = raw_run(root, tmp_path / "run", **{**OF_IMAGES, "model": {}})
    with pytest.raises(SegalError, match="nothing before the last layer is trained"):
        run_rounds(*configure_run(raw))
