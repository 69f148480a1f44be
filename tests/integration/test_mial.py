"""MIAL from the command line: a run, a training on a selection, and what is refused."""

import csv
import json

import pytest

from segal.errors import SegalError
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run
from tests.boxed import make_set

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


def test_a_training_on_a_selection_reads_the_other_images(segal, made, tmp_path):
    """The images that were not picked are the unlabelled set."""
    train = [f"train.{k}={json.dumps(v) if k == 'mial' else v}" for k, v in QUICK.items()]
    common = ("--task", "detection", "--data", made, "--arch", TINY)
    first = tmp_path / "first"
    code, _, stderr = segal("train", *common, *train, "--out", first)
    assert code == 0, stderr
    call = (
        "select", "--task", "detection", "--images", made / "JPEGImages",
        "--checkpoint", first / "model.safetensors", "--arch", TINY, "--budget", "3img",
        "--region", 48, "--strategy", "mial", "--overlays", 0, "--out", tmp_path / "picked",
    )  # fmt: skip
    code, _, stderr = segal(*call)
    assert code == 0, stderr


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
