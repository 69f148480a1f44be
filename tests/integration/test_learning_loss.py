"""Rounds that pick by predicted losses, through the command line."""

import json

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from segal.candidates.selection import read_selection
from segal.candidates.table import CandidateTable
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run
from segal.runs.history import read_history
from segal.runs.ledger import Ledger
from segal.scenes.synthetic import make_scenes
from tests.quick_run import quick_run


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, splits={"train": 6, "val": 2}, size=(64, 128), seed=0)
    return root


def configuration(scenes, out):
    return quick_run(
        scenes,
        {"iterations": 4, "checkpoint_every": 1, "learning_loss": True},
        start="warm",
        budgets=["4", "4"],
        strategy={"name": "learning_loss"},
        out=str(out),
    )


@pytest.fixture
def raw(scenes, tmp_path):
    return configuration(scenes, tmp_path / "run")


@pytest.fixture(scope="module")
def whole(scenes, tmp_path_factory):
    """A run that nothing stopped."""
    raw = configuration(scenes, tmp_path_factory.mktemp("whole") / "run")
    return run_rounds(*configure_run(raw)).history


def module(history, number):
    state = load_file(history.rounds[number].folder / "model.safetensors")
    return {key: value for key, value in state.items() if key.startswith("loss_prediction/")}


def test_rounds_by_predicted_loss(segal, raw, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(raw))
    code, _, stderr = segal("run", "--config", config, "strategy.subset=50%")
    assert code == 0, stderr
    history = read_history(tmp_path / "run")
    for number, done in enumerate(history.rounds[:2]):
        table = CandidateTable.open(done.folder / "candidates" / "32")
        scores = dict(zip(map(tuple, place(table)), table.values["predicted_loss"], strict=True))
        selected = read_selection(done.folder / "selection.csv")
        assert len(selected) == 4
        got = [s.score for s in selected]
        assert got == sorted(got, reverse=True)
        np.testing.assert_allclose(got, [scores[s.image, *s.box] for s in selected], rtol=1e-6)
        # A warm start goes on with the module.
        before, after = module(history, number), module(history, number + 1)
        assert before.keys() == after.keys() != set()
        assert all((before[key] - after[key]).abs().max() < 0.1 for key in before)
        assert any(not before[key].equal(after[key]) for key in before)
    resolved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert resolved["train"]["learning_loss"] == {
        "weight": 1.0, "margin": 1.0, "stop_gradient_after": 0.6, "ranking": "hinge"
    }  # fmt: skip
    # The resolved configuration is that of the run.
    again = ("run", "--config", tmp_path / "run" / "config.yaml")
    assert segal(*again)[0] == 0


def place(table):
    for image, box in zip(table.image, table.box.tolist(), strict=True):
        yield table.images[image], *box


@pytest.mark.parametrize("point", [1, 6])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(raw, whole, monkeypatch, point):
    finish, count = Ledger.finish, iter(range(100))

    def stop(self, *arguments, **options):
        if next(count) == point:
            raise KeyboardInterrupt
        return finish(self, *arguments, **options)

    monkeypatch.setattr(Ledger, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        run_rounds(*configure_run(raw))
    monkeypatch.undo()
    resumed = run_rounds(*configure_run(raw)).history
    for first, second in zip(whole.rounds, resumed.rounds, strict=True):
        for name in ("model.safetensors", "evaluation.npz"):
            assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()
        assert [p.box for p in first.bought] == [p.box for p in second.bought]


def test_a_training_without_the_module_is_refused_before_work_starts(segal, raw, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(raw))
    code, _, stderr = segal("run", "--config", config, "train.learning_loss=false")
    assert code == 2
    assert "train.learning_loss: false" in stderr
    assert "give train.learning_loss=true" in stderr
    assert not (tmp_path / "run").exists()
    shared = {k: v for k, v in raw.items() if k not in {"strategy", "out", "machine"}}
    comparison = {
        "run": {**shared, "train": {**raw["train"], "learning_loss": False}},
        "arms": [
            {"name": "learned", "set": {"strategy": {"name": "learning_loss"}}},
            {"name": "random", "set": {"strategy": {"name": "random"}}},
        ],
        "seeds": [0],
        "out": str(tmp_path / "comparison"),
    }
    config.write_text(json.dumps(comparison))
    code, _, stderr = segal("compare", "--config", config)
    assert code == 2
    assert "run.train.learning_loss: false" in stderr
    assert not (tmp_path / "comparison").exists()


def test_mistakes_in_its_settings_name_the_key(segal, raw, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(raw))
    code, _, stderr = segal(
        "run", "--config", config, "train.learning_loss.wieght=1", "strategy.subset=0"
    )
    assert code == 2
    assert "train.learning_loss.wieght: unknown key" in stderr
    assert "did you mean 'weight'?" in stderr
    assert "strategy.subset" in stderr


def test_selection_with_a_checkpoint_that_predicts_no_losses(
    segal, image_folder, checkpoint, tmp_path
):
    code, _, stderr = segal(
        "select", "--images", image_folder, "--checkpoint", checkpoint, "--region", 32,
        "--budget", 4, "--strategy", "learning_loss", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 2
    assert "predicts no losses" in stderr
    assert "train.learning_loss=true" in stderr
