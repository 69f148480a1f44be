"""Rounds, comparisons and trainings of networks that are not as most are."""

import json

import cv2
import numpy as np
import pytest
import torch
import yaml

from segal.candidates.selection import read_selection
from segal.errors import SegalError
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run
from segal.models.build import build_model, make_spec
from segal.scenes.synthetic import make_scenes
from tests.conftest import write_image
from tests.quick_run import quick_run

HEADLESS = {"architecture": "tests.form_networks:headless"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, splits={"train": 8, "val": 3}, size=(64, 128), seed=0)
    return root


@pytest.mark.parametrize("strategy", ["margin", "random"])
def test_rounds_of_a_network_without_a_last_layer(scenes, tmp_path, strategy):
    raw = quick_run(scenes, out=str(tmp_path / "run"), model=HEADLESS, budgets=["4"])
    outcome = run_rounds(*configure_run({**raw, "strategy": {"name": strategy}}))
    assert len(outcome.history.rounds) == 2
    picks = json.loads((tmp_path / "run" / "rounds" / "000" / "picks.json").read_text())
    assert picks.keys() >= {"mistakes", "count"}
    assert len(read_selection(tmp_path / "run" / "rounds" / "000" / "selection.csv")) == 4


def test_rounds_that_need_it_do_not_begin(scenes, tmp_path):
    raw = quick_run(scenes, out=str(tmp_path / "run"), model=HEADLESS)
    with pytest.raises(SegalError, match=r"^uwe: tests\.form_networks:headless: no last layer"):
        run_rounds(*configure_run(raw))
    assert not (tmp_path / "run").exists()


def test_arms_that_need_it_are_named_before_work_starts(segal, scenes, tmp_path):
    shared = quick_run(scenes, seed_set="1img", budgets=["4"], model=HEADLESS)
    arms = [{"name": n, "set": {"strategy": n}} for n in ("random", "uwe", "badge", "entropy")]
    raw = {
        "run": {k: v for k, v in shared.items() if k not in {"strategy", "machine"}},
        "arms": arms,
        "seeds": [0],
        "baseline": "random",
    }
    file = tmp_path / "compare.yaml"
    file.write_text(yaml.safe_dump(raw))
    code, _, err = segal("compare", "--config", file, "--out", tmp_path / "out")
    assert code == 2
    assert "arms.uwe: uwe: " in err
    assert "arms.badge: badge: " in err
    assert "arms.entropy" not in err


@pytest.fixture
def bright_or_dark(tmp_path):
    """Images whose second class is where they are bright."""
    root = tmp_path / "data"
    for split, count in (("train", 6), ("val", 2)):
        for i in range(count):
            image = write_image(root / "images" / split / f"{i}.png", 64, 96, 10 * count + i)
            label = (image.mean(-1) > 127).astype(np.uint8)
            path = root / "labels" / split / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), label)
    (root / "classes.txt").write_text("dark\nbright\n")
    return root


def test_a_network_of_one_output_learns(segal, bright_or_dark, tmp_path):
    options = ["train.iterations=60", "train.batch_size=4", "train.crop=64", "train.lr=0.02"]
    code, _, err = segal(
        "train", "--arch", "tests.form_networks:one_output", "--data", bright_or_dark,
        "--out", tmp_path / "out", "data.test=val", "train.optimizer=adamw", "train.workers=0",
        *options,
    )  # fmt: skip
    assert code == 0, err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["test"]["miou"] > 0.75
    weights = tmp_path / "out" / "model.safetensors"
    code, _, err = segal(
        "select", "--images", bright_or_dark / "images" / "train", "--checkpoint", weights,
        "--arch", "tests.form_networks:one_output", "--region", "32", "--budget", "3",
        "--strategy", "uwe", "--out", tmp_path / "picked",
    )  # fmt: skip
    assert code == 0, err


def test_the_check_of_a_network_draws_nothing():
    """Seeds of a training mean the same whether or not the network was looked at."""
    model = build_model(make_spec("tests.form_networks:plain", class_names=("a", "b")))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model.check()
    _ = model.head
    assert torch.equal(torch.rand(3), expected)
