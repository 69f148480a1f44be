"""Strategies of classes, of coverage and of typical candidates through the command line."""

import json

import pytest
import torch
import yaml

from segal.candidates.selection import read_selection
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint
from segal.runs.history import read_history
from segal.scenes.synthetic import make_scenes
from tests.conftest import CLASSES
from tests.quick_run import quick_run

ARCHITECTURE = "tests.tiny_network:build"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny") / "model.safetensors"
    save_checkpoint(build_model(make_spec(ARCHITECTURE, "", CLASSES)).eval(), path)
    return path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, splits={"train": 4, "val": 2}, size=(64, 128), seed=0)
    return root


SELECTIONS = [
    ("pixbal", ["strategy.preset=voc"], None),
    ("pixbal", ["strategy.spread.per_image=1", "strategy.spread.frames=1"], None),
    ("clasp", ["strategy.beta=50", "strategy.background=0"], "Noise was drawn at beta 50."),
    ("random", ["strategy.preset=nnactive"], None),
    ("max_herding", [], None),
    ("uherding", ["strategy.temperature=2"], "The kernel's bandwidth is 1."),
    ("typiclust", ["strategy.preset=code"], None),
    ("prob_cover", ["strategy.clusters=5"], "Balls have a radius of"),
    ("drop_query", [], None),
]


@pytest.mark.parametrize(("name", "extra", "note"), SELECTIONS)
def test_selects_from_the_command_line(segal, image_folder, tiny, tmp_path, name, extra, note):
    count = 6
    code, _, stderr = segal(
        "select", "--images", image_folder, "--checkpoint", tiny, "--arch", ARCHITECTURE,
        "--region", "32", "--budget", count, "--strategy", name, "--out", tmp_path / "out",
        "overlays=0", *extra,
    )  # fmt: skip
    assert code == 0, stderr
    selected = read_selection(tmp_path / "out" / "selection.csv")
    assert len({(one.image, one.box) for one in selected}) == count
    if "strategy.spread.per_image=1" in extra:
        assert len({one.image for one in selected}) == count
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert note is None or any(note in one for one in summary["notes"])


@pytest.mark.parametrize(
    ("name", "splits", "notes"),
    [
        ("clasp", {}, ["Round 0: Noise was drawn at beta 1.", "drawn at beta 100."]),
        ("uherding", {"validation": "val", "test": ""}, ["is calibrated best at", "bandwidth is"]),
    ],
)  # fmt: skip
def test_rounds_from_the_command_line(segal, scenes, tmp_path, name, splits, notes):
    raw = quick_run(scenes, strategy={"name": name}, overlays=0, budgets=["3", "3"])
    raw["data"] |= splits
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(raw))
    code, _, stderr = segal("run", "--config", config, "--out", tmp_path / "run")
    assert code == 0, stderr
    history = read_history(tmp_path / "run")
    assert [len(done.bought) for done in history.rounds[:2]] == [3, 3]
    told = json.loads((tmp_path / "run" / "summary.json").read_text())["notes"]
    for note in notes:
        assert any(note in one for one in told), told


def test_what_calibrates_asks_for_a_reference_set_before_work_starts(
    segal, image_folder, tiny, tmp_path
):
    code, _, stderr = segal(
        "select", "--images", image_folder, "--checkpoint", tiny, "--budget", "3", "--strategy",
        "uherding", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 2 and "which uherding measures on" in stderr
    assert not (tmp_path / "out").exists()
