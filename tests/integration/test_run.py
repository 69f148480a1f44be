"""Rounds through the command line: what they write, how they go on, and what they refuse."""

import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from segal.candidates import CandidateTable
from segal.data.synthetic import make_scenes
from segal.errors import SegalError
from segal.history import read_history
from segal.jobs import rounds as job
from segal.jobs.run import run_rounds
from segal.jobs.strategies import configure_run
from segal.ledger import Ledger
from segal.masks import read_selection
from segal.regions import RegionSize

PHASES = ["train", "evaluate", "scan-0", "select", "buy"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, splits={"train": 8, "val": 3}, size=(64, 128), seed=0)
    return root


@pytest.fixture
def raw(scenes, tmp_path):
    """A configuration that is quick to run."""
    return {
        "data": {"root": str(scenes), "test": "val"},
        "model": {"architecture": "tests.tiny_network:build"},
        "train": {
            "iterations": 2, "batch_size": 2, "crop": "64", "optimizer": "adamw", "lr": 1e-3,
            "workers": 0, "checkpoint_every": 1,
        },
        "seed_set": "2img",
        "region": "32",
        "budgets": ["10%", "4"],
        "strategy": {"name": "uwe"},
        "overlays": 1,
        "out": str(tmp_path / "run"),
        "machine": {"threads": 1},
    }  # fmt: skip


def run(raw, **changes):
    return run_rounds(*configure_run({**raw, **changes}))


def decided(folder):
    """The bytes of all that a run decides: its picks and its networks."""
    files = ("selection.csv", "picks.json", "model.safetensors", "evaluation.npz")
    paths = [p for p in sorted(folder.glob("rounds/*/*")) if p.name in files]
    with Ledger.read(folder) as ledger:
        return ledger.purchases(), {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def test_what_a_run_writes(segal, raw, scenes, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps({**raw, "model": {"encoder": "mobilenet_v2"}}))
    call = ("run", "--config", config, "--out", tmp_path / "out")
    code, stdout, stderr = segal(*call)
    assert code == 0, stderr
    assert stdout.strip() == str(tmp_path / "out")
    with Ledger.read(tmp_path / "out") as ledger:
        done = [(p.name, p.round) for p in ledger.phases()]
        assert done == [("seed", 0)] + [
            (name, number) for number in range(3) for name in PHASES[: 5 if number < 2 else 2]
        ]
    history = read_history(tmp_path / "out")
    seed_set, first, second = history.seed_set, history.rounds[0].bought, history.rounds[1].bought
    assert [(p.box, p.strategy) for p in seed_set] == [((0, 0, 128, 64), "seed")] * 2
    assert len(second) == 4
    pool = 8 * 64 * 128
    # 10 % of the pixels are 6 whole regions; what is left of them is for a later share.
    assert [p.pixels for p in first] == [32 * 32] * int(0.1 * pool / 1024)
    bought = [(p.image, p.box) for p in [*seed_set, *first, *second]]
    assert len(set(bought)) == len(bought)
    assert not {p.image for p in seed_set} & {p.image for p in [*first, *second]}
    shares = [2 / 8, 2 / 8 + 6 * 1024 / pool, 2 / 8 + 10 * 1024 / pool]
    assert [r.share for r in history.rounds] == pytest.approx(shares)
    assert [r.cost.regions for r in history.rounds] == [2, 8, 12]
    assert [r.cost.images for r in history.rounds] == pytest.approx([8 * s for s in shares])
    assert all(r.cost.clicks and r.cost.clicks > r.cost.regions for r in history.rounds)
    assert [r.metrics["steps"] for r in history.rounds] == [2, 2, 2]
    for r in history.rounds:
        evaluation = r.evaluation()
        assert evaluation.images == tuple(
            sorted(p.relative_to(scenes / "leftImg8bit" / "val").as_posix()
                   for p in scenes.glob("leftImg8bit/val/*/*.png"))
        )  # fmt: skip
        assert evaluation.metrics.miou == r.metrics["test"]["miou"]
        # Three small scenes do not hold all 19 classes, and that is said.
        assert r.metrics["test"]["absent"] == sum(v is None for v in evaluation_iou(r))
    assert "absent" in stderr
    for number, r in enumerate(history.rounds[:2]):
        selected = read_selection(r.folder / "selection.csv")
        assert [(s.image, s.box, s.pixels) for s in selected] == [
            (p.image, p.box, p.pixels) for p in r.bought
        ]
        assert r.picks["count"] == len(selected)
        assert r.picks["uncertainty"] > 0
        assert r.picks["pairwise_distance"] > 0
        assert len(list((r.folder / "overlays").glob("*.png"))) == 1, number
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["fingerprint"] == history.fingerprint
    # The same command again trains and scans nothing again; the run folder is whole.
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("out/rounds/*/*.*")}
    assert segal(*call)[0] == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("out/rounds/*/*.*")} == before
    code, stdout, _ = segal("validate", tmp_path / "out")
    assert code == 0
    assert "whole" in stdout


def evaluation_iou(r):
    return r.metrics["test"]["iou"].values()


@pytest.mark.parametrize("point", [1, 4, 7, 11])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(raw, tmp_path, monkeypatch, point):
    """Stopped once a phase has written its files, but not its row."""
    whole = run(raw)
    finish, count = Ledger.finish, iter(range(100))

    def stop(self, *arguments, **options):
        if next(count) == point:
            raise KeyboardInterrupt
        return finish(self, *arguments, **options)

    monkeypatch.setattr(Ledger, "finish", stop)
    again = {**raw, "out": str(tmp_path / "again")}
    with pytest.raises(KeyboardInterrupt):
        run(again)
    monkeypatch.undo()
    trained, train = [], job.train
    monkeypatch.setattr(job, "train", lambda *a, **k: trained.append(1) or train(*a, **k))
    outcome = run(again)
    assert decided(outcome.history.folder) == decided(whole.history.folder)
    # Of three trainings, those whose rows were there are not repeated.
    finished = sum(point > place for place in (1, 6, 11))
    assert len(trained) == 3 - finished


def test_a_training_that_was_stopped_goes_on_from_its_checkpoint(raw, tmp_path, monkeypatch):
    whole = run(raw, budgets=[])
    step = job.train.__globals__["_Run"]._step
    steps = []

    def stop(self, *arguments):
        steps.append(self.state.step)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(job.train.__globals__["_Run"], "_step", stop)
    again = {**raw, "out": str(tmp_path / "again"), "budgets": []}
    with pytest.raises(KeyboardInterrupt):
        run(again)
    outcome = run(again)
    assert steps == [0, 1, 1]
    assert decided(outcome.history.folder) == decided(whole.history.folder)


def test_a_damaged_file_is_made_again_and_nothing_is_bought_twice(raw):
    folder = run(raw).history.folder
    before = decided(folder)
    (folder / "rounds" / "000" / "selection.csv").write_text("spoilt")
    (folder / "rounds" / "001" / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="is done again"):
        run(raw)
    assert decided(folder) == before


def test_arms_share_the_seed_set_and_the_first_round(raw, tmp_path, monkeypatch):
    start = run(raw, budgets=[], out=str(tmp_path / "start"))
    other = {
        "strategy": {"name": "random"}, "region": "image", "budgets": ["1img", "2img"],
        "out": str(tmp_path / "b"),
    }  # fmt: skip
    alone = run(raw, **{**other, "out": str(tmp_path / "alone")})
    trained, train = [], job.train
    monkeypatch.setattr(job, "train", lambda *a, **k: trained.append(1) or train(*a, **k))
    config, strategy = configure_run({**raw, **other})
    outcome = run_rounds(config, strategy, start=start.history.folder)
    assert len(trained) == 2
    assert decided(outcome.history.folder) == decided(alone.history.folder)
    assert outcome.history.seed_set == start.history.seed_set
    # Of another seed nothing can be taken over.
    config, strategy = configure_run({**raw, **other, "seed": 1, "out": str(tmp_path / "c")})
    run_rounds(config, strategy, start=start.history.folder)
    assert len(trained) == 5


def test_strategies_see_what_is_labelled_on_their_own_grid(raw):
    history = run(raw, budgets=["4"]).history
    labelled = CandidateTable.open(history.rounds[0].folder / "candidates" / "labelled")
    grid = RegionSize.parse("32").grid(64, 128).boxes()
    assert np.array_equal(labelled.box, np.concatenate([grid, grid]))


def test_steps_in_proportion_to_the_labels(raw):
    history = run(raw, steps="proportional", budgets=["2img"]).history
    assert [r.metrics["steps"] for r in history.rounds] == [2, 4]


@pytest.mark.parametrize(("start", "same"), [("scratch", False), ("warm", True)])
def test_what_a_round_starts_from(raw, monkeypatch, start, same):
    begun, train = [], job.train

    def spy(model, *arguments, **options):
        begun.append([p.clone() for p in model.network.parameters()])
        result = train(model, *arguments, **options)
        begun.append([p.clone() for p in model.network.parameters()])
        return result

    monkeypatch.setattr(job, "train", spy)
    run(raw, start=start, budgets=["4"])
    first, ended, second, _ = begun
    assert all(a.equal(b) for a, b in zip(second, ended if same else first, strict=True))
    assert not all(a.equal(b) for a, b in zip(second, first if same else ended, strict=True))


def test_a_run_stops_at_its_target(raw, scenes):
    data = {"root": str(scenes), "validation": "val"}
    outcome = run(raw, data=data, target=1e-6, train={**raw["train"], "validate_every": 0})
    assert len(outcome.history.rounds) == 1
    assert outcome.history.report_split == "validation"
    assert "reached the target" in outcome.notes[0]


def test_rounds_that_outlive_the_pool_end_with_a_short_one(raw):
    outcome = run(raw, budgets=["80%", "5", "5"], overlays=0, measure_picks=False)
    rounds = outcome.history.rounds
    # 6 images of 8 regions are left after the seed set: fewer than 80 % of all pixels.
    assert [len(r.bought) for r in rounds] == [48, 0]
    assert rounds[-1].share == 1.0
    assert any("outlives the pool" in note for note in outcome.notes)
    assert "used up" in outcome.notes[-1]


def test_every_strategy_is_measured_alike_unless_asked_not_to(raw, tmp_path):
    strategy = {"name": "random"}
    picks = run(raw, strategy=strategy, budgets=["4"]).history.rounds[0].picks
    assert picks["log_determinant"]
    bare = run(
        raw, strategy=strategy, budgets=["4"], measure_picks=False, out=str(tmp_path / "bare")
    ).history.rounds[0]
    assert set(bare.picks) == {"region", "count", "notes"}
    assert not (bare.folder / "candidates" / "32" / "value-entropy.npy").exists()


# What is refused


def test_all_mistakes_of_a_configuration_come_at_once(segal, raw, tmp_path):
    config = tmp_path / "run.yaml"
    wrong = {
        **raw, "region": "0", "budgets": ["5%", "-3"], "start": "cold", "sed": 1,
        "strategy": {"name": "uwee"},
    }  # fmt: skip
    config.write_text(json.dumps(wrong))
    code, _, stderr = segal("run", "--config", config, "train.lr=-1")
    assert code == 2
    for part in ("region", "budgets.1", "start", "'seed'", "'uwe'", "train.lr"):
        assert part in stderr, part
    assert not (tmp_path / "run").exists()


def test_another_configuration_is_refused_with_what_differs(segal, raw, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps({**raw, "budgets": []}))
    assert segal("run", "--config", config)[0] == 0
    code, _, stderr = segal("run", "--config", config, "--seed", 3, "train.iterations=9")
    assert code == 2
    assert "seed: 0 in the folder, 3 now" in stderr
    assert "train.iterations: 2 in the folder, 9 now" in stderr
    assert stderr.count("fingerprint") == 2
    assert "--out" in stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"test": ""}}, "a split to evaluate on"),
        ({"target": 0.5}, "data.validation"),
        ({"seed_set": "0.1%"}, "seed_set: 0.1% does not buy a single region"),
        ({"budgets": ["5%", "0.1%"]}, "budgets.1: 0.1% does not buy a single region"),
        ({"data": {"test": "tset"}}, "there is no split 'tset'"),
    ],
)
def test_mistakes_are_found_before_work_starts(raw, changes, message):
    raw["data"].update(changes.pop("data", {}))
    with pytest.raises(SegalError, match=message):
        run(raw, **changes)


def test_an_empty_validation_set_is_refused(raw, scenes, tmp_path):
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    (root / "leftImg8bit" / "test").mkdir()
    with pytest.raises(SegalError, match="no image"):
        run(raw, data={"root": str(root), "validation": "test", "test": "val"})


def test_a_run_within_the_data_set_is_refused(raw, scenes):
    with pytest.raises(SegalError, match="within the data set"):
        run(raw, out=str(scenes / "run"))


def test_a_label_that_vanished_since_the_run_began(raw, scenes, tmp_path):
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    data = {"root": str(root), "test": "val"}
    run(raw, data=data, budgets=[])
    label = next(root.glob("gtFine/train/*/*_labelIds.png"))
    label.unlink()
    with pytest.raises(SegalError, match=r"has no label[\s\S]*labelIds.png"):
        run(raw, data=data, budgets=[])


def test_a_label_that_changed_since_the_run_began(raw, scenes, tmp_path):
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    data = {"root": str(root), "test": "val"}
    history = run(raw, data=data, budgets=[]).history
    name = history.seed_set[0].image.replace("_leftImg8bit", "_gtFine_labelIds")
    path = root / "gtFine" / "train" / name
    cv2.imwrite(str(path), np.full((64, 128), 7, np.uint8))
    with pytest.raises(SegalError, match="fingerprint"):
        run(raw, data=data, budgets=[])


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_not(segal, raw, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps({**raw, "budgets": []}))
    holder = (
        "import sys, time; from pathlib import Path; from segal.database import lock; "
        "folder = Path(sys.argv[1]); folder.mkdir(); lock(folder); "
        "print('held', flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "run")],
        stdout=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout.readline().strip() == "held"
        code, _, stderr = segal("run", "--config", config)
        assert code == 2
        assert f"process {process.pid}" in stderr or str(process.pid) in stderr
        process.kill()
    assert segal("run", "--config", config)[0] == 0
