"""Rounds through the command line: what they write, how they go on, and what they refuse."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from segal.candidates.regions import RegionSize
from segal.candidates.selection import read_selection
from segal.candidates.table import CandidateTable
from segal.errors import SegalError
from segal.functional.batch import BatchStatistics
from segal.jobs import picks
from segal.jobs.rounds import loop as job
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run
from segal.runs.database import connect
from segal.runs.history import read_history
from segal.runs.ledger import Ledger
from segal.scanning.scan import Scan
from segal.scenes.synthetic import make_scenes
from segal.signals import Value
from segal.strategies.random import Random
from tests.quick_run import quick_run

PHASES = ["train", "evaluate", "scan-0", "select", "inspect", "buy"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, splits={"train": 8, "val": 3}, size=(64, 128), seed=0)
    return root


@pytest.fixture
def raw(scenes, tmp_path):
    """A configuration that is quick to run."""
    return quick_run(scenes, {"checkpoint_every": 1}, out=str(tmp_path / "run"))


def run(raw, **changes):
    return run_rounds(*configure_run({**raw, **changes}))


def decided(folder):
    """The bytes of all that a run decides: its picks and its networks."""
    files = ("selection.csv", "picks.json", "model.safetensors", "evaluation.npz")
    paths = [p for p in sorted(folder.glob("rounds/*/*")) if p.name in files]
    with Ledger.read(folder) as ledger:
        return ledger.purchases(), {str(p.relative_to(folder)): p.read_bytes() for p in paths}


@pytest.fixture(scope="module")
def whole(scenes, tmp_path_factory):
    """A run that nothing stopped: its folder."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return run(quick_run(scenes, {"checkpoint_every": 1}, out=str(out))).history.folder


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
            (name, number) for number in range(3) for name in PHASES[: 6 if number < 2 else 2]
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
    assert re.search(r"mIoU \d+\.\d\d % over \d+ of 19 classes on test", stderr)
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
    assert not list(tmp_path.glob("out/ledger.sqlite-*"))  # one file, that can be copied
    assert not list(tmp_path.rglob(".*.blocks"))


def evaluation_iou(r):
    return r.metrics["test"]["iou"].values()


@pytest.mark.parametrize(
    "point", [1, 4, 7, *(pytest.param(n, marks=pytest.mark.slow) for n in (5, 13))]
)
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(raw, whole, monkeypatch, point):
    """Stopped once a phase has written its files, but not its row."""
    finish, count = Ledger.finish, iter(range(100))

    def stop(self, *arguments, **options):
        if next(count) == point:
            raise KeyboardInterrupt
        return finish(self, *arguments, **options)

    monkeypatch.setattr(Ledger, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        run(raw)
    monkeypatch.undo()
    trained, train = [], job.train
    monkeypatch.setattr(job, "train", lambda *a, **k: trained.append(1) or train(*a, **k))
    scanned, scan = [], Scan.run
    monkeypatch.setattr(Scan, "run", lambda *a, **k: scanned.append(1) or scan(*a, **k))
    outcome = run(raw)
    assert decided(outcome.history.folder) == decided(whole)
    # Of three trainings, those whose rows were there are not repeated.
    finished = sum(point > place for place in (1, 7, 13))
    assert len(trained) == 3 - finished
    assert len(scanned) == 2 - sum(point > place for place in (3, 9))


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
    assert any("used up" in note for note in outcome.notes)


@dataclass(frozen=True)
class TwoPasses(Random):
    """Asks for its second pass in view of the first one's table."""

    def passes(self, context):
        yield [Value("margin")]
        assert len(context.tables) == 1
        yield [Value("entropy" if context.tables[0].values["margin"].all() else "bvsb")]
        assert len(context.tables) == 2

    def select(self, table, labelled, count, generator):
        assert set(table.values) == set(labelled.values) == {"entropy"}
        return super().select(table, labelled, count, generator)


def test_a_second_pass_is_asked_for_in_view_of_the_first(raw):
    config, _ = configure_run({**raw, "budgets": ["4"]})
    first = run_rounds(config, TwoPasses()).history.rounds[0]
    assert [p for p in first.seconds if p.startswith("scan")] == ["scan-0", "scan-1"]
    assert first.picks["uncertainty"] > 0
    assert len(first.bought) == 4


def test_a_budget_of_just_what_is_left_does_not_outlive_the_pool(raw):
    outcome = run(raw, budgets=["48"], overlays=0, measure_picks=False)
    assert outcome.history.rounds[-1].share == 1.0
    assert not any("outlives the pool" in note for note in outcome.notes)


def test_what_was_bought_stays_selected_where_a_scan_comes_out_otherwise(raw):
    folder = run(raw, budgets=["4"]).history.folder
    files = folder / "rounds" / "000"
    before = (files / "selection.csv").read_bytes()
    (files / "selection.csv").unlink()
    # As another machine might measure it; its row says that it is whole.
    column = np.load(files / "candidates" / "32" / "embedding-mean_feature.npy", mmap_mode="r+")
    column[:] = column[::-1].copy()
    del column
    with sqlite3.connect(folder / "ledger.sqlite") as ledger:
        ledger.execute("DELETE FROM artefacts WHERE path LIKE '%candidates/32/embedding%'")
    ledger.close()
    with pytest.warns(UserWarning, match="is done again"):
        run(raw, budgets=["4"])
    assert (files / "selection.csv").read_bytes() == before


def test_magnitudes_of_nothing_are_none_in_json(raw, monkeypatch):
    monkeypatch.setattr(
        picks, "batch_statistics", lambda *_: BatchStatistics(4, 0.5, 0.0, 0.0, -np.inf)
    )
    history = run(raw, budgets=["4"]).history
    text = (history.rounds[0].folder / "picks.json").read_text()
    assert "Infinity" not in text
    assert history.rounds[0].picks["log_determinant"] is None


def test_every_strategy_is_measured_alike_unless_asked_not_to(raw, tmp_path):
    strategy = {"name": "random"}
    first = run(raw, strategy=strategy, budgets=["4"]).history.rounds[0]
    assert first.picks["log_determinant"]
    bare = run(
        raw, strategy=strategy, budgets=["4"], measure_picks=False, out=str(tmp_path / "bare")
    ).history.rounds[0]
    assert set(bare.picks) == {"region", "count"}
    assert not (bare.folder / "candidates" / "32" / "value-entropy.npy").exists()


def test_a_run_killed_while_its_ledger_was_made_goes_on(raw, tmp_path):
    (tmp_path / "run").mkdir()
    connect(tmp_path / "run" / "ledger.sqlite").close()
    assert len(run(raw, budgets=[]).history.rounds) == 1


def test_what_is_reported_on_is_known_without_the_configuration_file(raw):
    folder = run(raw, budgets=[]).history.folder
    (folder / "config.yaml").unlink()
    (folder / "summary.json").unlink()
    history = read_history(folder)
    assert history.report_split == "test"
    assert history.scores == [history.rounds[0].metrics["test"]["miou"]]
    run(raw, budgets=[])
    assert (folder / "config.yaml").exists()
    assert (folder / "summary.json").exists()


def test_16_bit_images_of_differing_sizes_by_whole_images(raw, tmp_path):
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for number in range(count):
            size = (40 + 8 * number, 70)
            for kind, values in (("images", 65536), ("labels", 3)):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                drawn = rng.integers(0, values, size, np.uint16 if values > 255 else np.uint8)
                cv2.imwrite(str(root / kind / split / f"{number}.png"), drawn)
    (root / "classes.txt").write_text("a\nb\nc\nnever there\n")
    data = {"root": str(root), "test": "val"}
    history = run(raw, data=data, region="image", seed_set="2img", budgets=["2img"] * 2).history
    mean = history.pool_pixels / 8
    spent = np.cumsum([sum(p.pixels for p in history.seed_set)] + [
        sum(p.pixels for p in r.bought) for r in history.rounds[:2]
    ])  # fmt: skip
    assert all(spent <= mean * np.array([2, 4, 6]))
    assert len(history.rounds) == 3
    assert history.rounds[0].metrics["test"]["iou"]["never there"] in (None, 0.0)


# What is refused


def test_all_mistakes_of_a_configuration_come_at_once(segal, raw, tmp_path):
    config = tmp_path / "run.yaml"
    wrong = {
        **raw, "region": "0", "budgets": ["5%", "-3"], "start": "cold", "sed": 1,
        "strategy": {"name": "uwee"}, "target": 0.5,
    }  # fmt: skip
    config.write_text(json.dumps(wrong))
    code, _, stderr = segal("run", "--config", config, "train.lr=-1")
    assert code == 2
    for part in ("region", "budgets.1", "start", "'seed'", "'uwe'", "train.lr", "target"):
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
        ({"data": {"test": ""}}, "data: not valid\n  expected: a split to evaluate on"),
        ({"data": {"test": ""}, "region": "0"}, r"a split to evaluate on[\s\S]*\nregion: not"),
        ({"budgets": 500}, "budgets: not valid\n  expected: a list"),
        ({"target": 0.5}, "data.validation"),
        ({"seed_set": "0.1%"}, "seed_set: 0.1% does not buy a single region"),
        (
            {"seed_set": "0.1%", "budgets": ["5%", "0.1%"]},
            r"seed_set: 0.1% does[\s\S]*budgets.1: 0.1% does not buy",
        ),
        # Enough for the clipped regions at the edges, and not for the others.
        ({"region": "60", "budgets": ["4%"], "budget_fit": "prefix"}, "at least 3600 pixels"),
        ({"data": {"test": "tset"}}, "there is no split 'tset'"),
    ],
)
def test_mistakes_are_found_before_work_starts(raw, changes, message):
    raw["data"].update(changes.pop("data", {}))
    with pytest.raises(SegalError, match=message):
        run(raw, **changes)


@pytest.mark.parametrize("name", ["tests.tiny_network:TinyNetwork", "tests.killed_run:run"])
def test_a_strategy_of_ones_own_that_is_none(segal, raw, tmp_path, name):
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps({**raw, "strategy": {"name": name}}))
    code, _, stderr = segal("run", "--config", config, "region=0")
    assert code == 2
    assert f"{name}: not a strategy" in stderr
    assert "region: not valid" in stderr


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_of_void_labels_is_refused(raw, scenes, tmp_path, split):
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    for kind in ("leftImg8bit", "gtFine"):
        shutil.copytree(root / kind / "val", root / kind / "void")
    for path in root.glob("leftImg8bit/void/*/*.png"):
        cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    for path in root.glob("gtFine/void/*/*_labelIds.png"):
        cv2.imwrite(str(path), np.zeros_like(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))
    data = {"root": str(root), "test": "val", split: "void"}
    with pytest.raises(SegalError, match="void: cannot be evaluated on"):
        run(raw, data=data)


def test_other_images_are_refused_and_not_recorded(raw, scenes, tmp_path):
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    data = {"root": str(root), "test": "val"}
    before = run(raw, data=data, budgets=[]).history
    for kind in ("leftImg8bit", "gtFine"):
        for path in root.glob(f"{kind}/train/traina/traina_000000_000000_*.png"):
            shutil.copy(path, path.with_name(path.name.replace("_000000_", "_999999_", 1)))
    with pytest.raises(SegalError, match=r"not the images that .* began with") as caught:
        run(raw, data=data, budgets=[])
    assert "traina/traina_999999_000000_leftImg8bit.png" in str(caught.value)
    assert read_history(before.folder).pool_pixels == before.pool_pixels


def test_an_empty_validation_set_is_refused(raw, scenes, tmp_path):
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    (root / "leftImg8bit" / "test").mkdir()
    with pytest.raises(SegalError, match="no image"):
        run(raw, data={"root": str(root), "validation": "test", "test": "val"})


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"name": "bald"}, "no dropout on the way to its logits"),
        ({"name": "isal", "top_k": 19}, r"strategy\.top_k: 19 of 19 classes"),
        ({"name": "ralif", "layers": "decoder.block3"}, "no tail 'decoder.block3'"),
        ({"name": "error_change", "layers": "decoder.blok"}, "did you mean 'decoder.block"),
        ({"name": "err_reduction", "layers": "nothing"}, "no tail 'nothing'"),
    ],
)
def test_what_a_network_has_not_is_missed_before_work_starts(raw, tmp_path, strategy, message):
    data = {"root": raw["data"]["root"], "validation": "val"}
    with pytest.raises(SegalError, match=message):
        run(raw, data=data, strategy=strategy, model={"architecture": "Unet"})
    assert not (tmp_path / "run").exists()


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


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_not(segal, raw, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps({**raw, "budgets": []}))
    holder = (
        "import sys, time; from pathlib import Path; from segal.runs.database import lock; "
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
