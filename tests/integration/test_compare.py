"""Comparisons through the command line, with real rounds on made scenes."""

import csv
import json
import os
import subprocess
import sys

import pytest
import yaml

from segal.runs.history import read_history
from segal.runs.ledger import Ledger
from segal.scenes.synthetic import make_scenes
from tests.quick_run import quick_run


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, splits={"train": 8, "val": 3}, size=(64, 128), seed=0)
    return root


@pytest.fixture
def config(scenes, tmp_path):
    """A configuration that is quick to run."""
    of_run = quick_run(scenes, seed_set="1img", budgets=["12.5%", "12.5%"], overlays=0)
    of_arms = {"strategy", "machine"}
    raw = {
        "run": {key: value for key, value in of_run.items() if key not in of_arms},
        "arms": [
            {"name": "random", "set": {"strategy": "random"}},
            {"name": "uwe-fine", "set": {"strategy": {"name": "uwe", "tau": 0.1}, "region": "16"}},
            {
                "name": "image",
                "set": {"strategy": "random", "region": "image", "budgets": "1img,1img"},
            },
            {"name": "full", "full": True, "seeds": [0]},
        ],
        "seeds": [0, 1],
        "primary": {"arm": "uwe-fine", "against": "random"},
        "permutations": 200,
    }  # fmt: skip
    file = tmp_path / "compare.yaml"
    file.write_text(yaml.safe_dump(raw))
    return file


def rounds_by_run(out):
    found = {}
    for path in sorted(out.glob("*/*/seed-*")) + sorted(out.glob("start/seed-*")):
        with Ledger.read(path) as ledger:
            found[path.relative_to(out).as_posix()] = [(p.name, p.round) for p in ledger.phases()]
    return found


def test_a_comparison_from_end_to_end(segal, config, tmp_path):
    out = tmp_path / "out"
    call = ("compare", "--config", config, "--out", out, "--threads", 1)
    code, stdout, stderr = segal(*call)
    assert code == 0, stderr
    assert stdout.strip() == str(out / "comparison.json")
    assert "Noise: random against random" in stderr
    assert "Primary contrast" in stderr
    arms = {name: [0, 1] for name in ("random", "uwe-fine", "image")} | {"full": [0]}
    histories = {
        (name, seed): read_history(out / "runs" / name / f"seed-{seed}")
        for name, seeds in arms.items()
        for seed in seeds
    }
    for seed in (0, 1):
        same = [histories[name, seed] for name in ("random", "uwe-fine", "image")]
        # One seed set, one first network, and one cost in pixels at every budget.
        assert len({tuple((*p.box, p.image) for p in h.seed_set) for h in same}) == 1
        models = {(h.rounds[0].folder / "model.safetensors").read_bytes() for h in same}
        assert len(models) == 1
        assert {tuple(r.share for r in h.rounds) for h in same} == {(1 / 8, 2 / 8, 3 / 8)}
    start = read_history(out / "start" / "seed-0").rounds[0]
    # Taken over, not done again: even the seconds are the first run's.
    assert histories["random", 0].rounds[0].seconds["train"] == start.seconds["train"]
    assert [r.share for r in histories["full", 0].rounds] == [1]
    tables = {t["title"]: t for t in json.loads((out / "comparison.json").read_text())["tables"]}
    scores = tables["mIoU by budget"]
    last = next(r for r in scores["rows"] if r[:2] == ["uwe-fine", 2])
    reached = [histories["uwe-fine", s].scores[2] for s in (0, 1)]
    assert last[3] == pytest.approx(100 * sum(reached) / 2)
    assert "uncertainty" in tables["Picks: means over seeds"]["columns"]
    with next((out / "tables").glob("*miou-by-budget.csv")).open() as file:
        assert next(csv.reader(file)) == scores["columns"]
    page = (out / "report.html").read_text()
    assert "uwe-fine" in page
    # Once more: nothing is done again.
    phases, before = rounds_by_run(out), (out / "report.html").stat().st_mtime_ns
    models = {p: p.stat().st_mtime_ns for p in out.rglob("model.safetensors")}
    code, _, stderr = segal(*call)
    assert code == 0, stderr
    assert rounds_by_run(out) == phases
    assert {p: p.stat().st_mtime_ns for p in out.rglob("model.safetensors")} == models
    assert (out / "report.html").stat().st_mtime_ns == before
    code, _, stderr = segal(*call, "run.train.lr=0.01")
    assert code == 2
    assert "train.lr" in stderr


@pytest.mark.slow
def test_processes_share_the_work_and_come_to_the_same(segal, config, tmp_path):
    raw = yaml.safe_load(config.read_text())
    raw["arms"], raw["primary"] = [raw["arms"][0], raw["arms"][3]], None
    raw["run"]["budgets"], raw["run"]["overlays"] = ["12.5%"], 0
    config.write_text(yaml.safe_dump(raw))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "segal", "compare", "--config", str(config), "--out", str(out)]
    environment = {
        k: v for k, v in os.environ.items() if k not in {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    }
    environment |= {"OMP_NUM_THREADS": "1", "OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run(
        [*command, "--processes", "2"],
        capture_output=True, text=True, timeout=900, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    logs = list((out / "logs").iterdir())
    assert len(logs) == 1
    assert "comparison.json" in logs[0].read_text()
    for said in (done.stderr, logs[0].read_text()):  # by the OpenMP runtime of either process
        assert "GOMP_SPINCOUNT = '5000'" in said
    assert not list(out.rglob("ledger.sqlite-*"))
    alone = tmp_path / "alone"
    code, _, stderr = segal("compare", "--config", config, "--out", alone, "--threads", 1)
    assert code == 0, stderr
    one, two = (json.loads((o / "comparison.json").read_text())["tables"] for o in (out, alone))
    assert one == two


def test_mistakes_come_at_once_and_before_any_work(segal, config, tmp_path):
    code, _, stderr = segal(
        "compare", "--config", config, "--out", tmp_path / "out", "run.region=0", "baseline=rand"
    )
    assert code == 2
    assert "run.region" in stderr
    assert "did you mean 'random'?" in stderr
    assert not (tmp_path / "out").exists()


def test_what_networks_have_not_is_said_of_all_arms_before_work_starts(segal, config, tmp_path):
    raw = yaml.safe_load(config.read_text())
    raw["run"]["model"] = {"architecture": "Unet"}
    raw["arms"] += [
        {"name": "divided", "set": {"strategy": "bald"}},
        {"name": "tail", "set": {"strategy": {"name": "badge"}}},
        {
            "name": "many",
            "set": {"strategy": {"name": "isal", "reference": "labelled", "top_k": 19}},
        },
    ]
    config.write_text(yaml.safe_dump(raw))
    code, _, stderr = segal("compare", "--config", config, "--out", tmp_path / "out")
    assert code == 2
    assert "arms.divided: " in stderr
    assert "arms.many: strategy.top_k: 19 of 19 classes" in stderr
    assert "arms.tail" not in stderr
    assert not list((tmp_path / "out").rglob("ledger.sqlite"))


def test_a_run_that_fails(segal, config, scenes, tmp_path):
    """Image-level budgets that the pool is too small for do not stop the rest."""
    raw = yaml.safe_load(config.read_text())
    raw["arms"] = [raw["arms"][0], {"name": "huge", "set": {"strategy": "uwe", "region": "image"}}]
    raw["run"]["budgets"] = ["6%", "6%"]  # less than an image
    raw["primary"], raw["seeds"] = None, [0]
    config.write_text(yaml.safe_dump(raw))
    code, _, stderr = segal("compare", "--config", config, "--out", tmp_path / "out")
    assert code == 2
    assert "huge, seed 0: budgets.0: 6% does not buy a single region" in stderr
    assert (tmp_path / "out" / "comparison.json").exists()
    assert (tmp_path / "out" / "report.html").exists()
