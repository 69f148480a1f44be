"""How a comparison's runs are done, shared and resumed; a fake stands for the rounds themselves."""

import json
import multiprocessing
import os
import shutil
import sqlite3
import time
from collections import Counter

import pytest

from segal.errors import SegalError
from segal.jobs.comparing import compare
from segal.jobs.planning import plan_comparison
from segal.jobs.rounds.loop import SUMMARY_FILE
from segal.runs.database import lock
from segal.system.files import remove
from tests.fake_runs import make_run

SCORES = {"random": (0.40, 0.50, 0.60), "uwe": (0.40, 0.57, 0.65)}


class Rounds:
    """Stands for `run_rounds`: holds the folder for a while, and leaves a finished run there.

    Attributes:
        journal: A file with a line a run.
        seconds: How long a run takes.
        broken: Names of folders whose run fails.
    """

    def __init__(self, journal, seconds=0.0, broken=()):
        self.journal, self.seconds, self.broken = journal, seconds, broken

    def __call__(self, config, strategy, *, start=None):
        config.out.mkdir(parents=True, exist_ok=True)
        descriptor = lock(config.out)
        try:
            with self.journal.open("a") as file:
                file.write(f"{os.getpid()} {config.out.parent.name}/{config.out.name}\n")
            time.sleep(self.seconds)
            if config.out.parent.name in self.broken:
                raise self.broken[config.out.parent.name]
            self.leave(config)
        finally:
            os.close(descriptor)

    def leave(self, config):
        name = config.strategy["name"]
        made = make_run(
            config.out.parent / f".{config.out.name}",
            strategy=config.strategy,
            seed=config.seed,
            scores=SCORES[name][: len(config.budgets) + 1] if config.budgets else [0.4],
            full=config.seed_set == "100%",
        )
        for file in sorted(made.iterdir(), key=lambda f: f.name == SUMMARY_FILE):
            if file.name != ".lock":
                remove(config.out / file.name)  # of a run that goes on
                file.rename(config.out / file.name)
        shutil.rmtree(made)

    def lines(self):
        return [line.split(" ") for line in self.journal.read_text().splitlines()]

    def done(self):
        return [line[1] for line in self.lines()] if self.journal.exists() else []


@pytest.fixture
def rounds(tmp_path, monkeypatch):
    fake = Rounds(tmp_path / "journal")
    reports = []

    def write_report(folders, page, *, axis):
        assert folders == [page.parent]
        assert (page.parent / "comparison.json").exists()
        page.write_text("")
        reports.append(axis)

    fake.reports = reports
    monkeypatch.setattr(compare, "run_rounds", fake)
    monkeypatch.setattr(compare, "check_networks", lambda arms: None)
    monkeypatch.setattr(compare, "write_report", write_report)
    monkeypatch.setattr(compare, "_POLL_SECONDS", 0.05)
    return fake


@pytest.fixture
def plan(tmp_path):
    def make(**changes):
        arms = [
            {"name": "random", "set": {"strategy": "random"}},
            {"name": "uwe", "set": {"strategy": "uwe"}},
            {"name": "full", "full": True, "seeds": [0]},
        ]
        raw = {
            "run": {
                "data": {"root": "nowhere", "validation": "val", "test": "test"},
                "seed_set": "2img",
                "region": "64",
                "budgets": ["10%", "10%"],
            },
            "arms": arms,
            "seeds": [0, 1],
            "primary": {"arm": "uwe", "against": "random"},
            "permutations": 100,
            "out": str(tmp_path / "out"),
        }
        return plan_comparison(raw | changes)

    return make


SEED_BY_SEED = [
    *("start/seed-0", "random/seed-0", "uwe/seed-0", "full/seed-0"),
    *("start/seed-1", "random/seed-1", "uwe/seed-1"),
]


def test_everything_is_done_once_and_analysed(plan, rounds, tmp_path):
    outcome = compare.run_comparison(plan())
    assert rounds.done() == SEED_BY_SEED
    assert outcome.missing == []
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    titles = [table["title"] for table in written["tables"]]
    assert titles[0] == "Noise: random against random"
    assert titles == [table.title for table in outcome.tables]
    assert written["statement"] in written["tables"][1]["notes"]
    assert written["runs"] == {"random": [0, 1], "uwe": [0, 1], "full": [0]}
    assert len(list((tmp_path / "out" / "tables").glob("*.csv"))) == len(titles)
    assert rounds.reports == ["share"]
    # Again: nothing is done, nor written.
    before = outcome.file.stat().st_mtime_ns
    again = compare.run_comparison(plan())
    assert len(rounds.done()) == len(SEED_BY_SEED)
    assert outcome.file.stat().st_mtime_ns == before
    assert again.tables == outcome.tables
    # A page that is gone is made again; and so it is for another question of the same runs.
    (tmp_path / "out" / "report.html").unlink()
    compare.run_comparison(plan())
    assert len(rounds.reports) == 2
    asked = compare.run_comparison(plan(target=0.5))
    assert len(rounds.done()) == len(SEED_BY_SEED)
    assert asked.tables != outcome.tables
    assert len(rounds.reports) == 3


def test_arms_start_from_the_shared_first_round(plan, rounds, monkeypatch, tmp_path):
    starts = {}

    def spy(config, strategy, *, start=None):
        starts[config.out.relative_to(tmp_path / "out").as_posix()] = start
        rounds(config, strategy)

    monkeypatch.setattr(compare, "run_rounds", spy)
    compare.run_comparison(plan())
    first = tmp_path / "out" / "start"
    assert starts["runs/uwe/seed-1"] == starts["runs/random/seed-1"] == first / "seed-1"
    assert starts["runs/full/seed-0"] is None
    assert starts["start/seed-0"] is None


def test_it_goes_on_where_it_stopped(plan, rounds, tmp_path):
    rounds.broken = {"uwe": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        compare.run_comparison(plan())
    assert rounds.done() == SEED_BY_SEED[:3]
    rounds.broken = {}
    compare.run_comparison(plan())
    assert rounds.done()[3:] == SEED_BY_SEED[2:]
    # More seeds later.
    compare.run_comparison(plan(seeds=[0, 1, 2]))
    assert rounds.done()[-3:] == ["start/seed-2", "random/seed-2", "uwe/seed-2"]


@pytest.mark.parametrize("error", [SegalError("no room"), RuntimeError("no room")])
def test_a_failing_run_does_not_hide_the_others(plan, rounds, tmp_path, error, capfd):
    rounds.broken = {"uwe": error}
    with pytest.raises(SegalError, match="2 runs failed") as caught:
        compare.run_comparison(plan())
    assert "uwe, seed 0: " in caught.value.got
    assert "no room" in caught.value.got
    assert sorted(rounds.done()) == sorted(SEED_BY_SEED)
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["missing"] == ["uwe, seed 0", "uwe, seed 1"]
    assert written["tables"][0]["title"].startswith("Noise")
    assert ("Traceback" in capfd.readouterr().err) == isinstance(error, RuntimeError)


def test_without_its_first_round_an_arm_cannot_be_run(plan, rounds):
    rounds.broken = {"start": SegalError("no label")}
    with pytest.raises(SegalError, match=r"6 runs failed; .* no run of the baseline") as caught:
        compare.run_comparison(plan())
    assert "first round of seed 1: no label" in caught.value.got
    assert "uwe, seed 1: its first round of seed 1 failed" in caught.value.got
    assert rounds.done() == ["start/seed-0", "full/seed-0", "start/seed-1"]


def test_a_comparison_that_moved_goes_on(plan, rounds, tmp_path):
    rounds.broken = {"full": SegalError("full: broken")}
    with pytest.raises(SegalError, match="broken"):
        compare.run_comparison(plan())
    (tmp_path / "out").rename(tmp_path / "moved")
    rounds.broken, before = {}, len(rounds.done())
    outcome = compare.run_comparison(plan(out=str(tmp_path / "moved")))
    assert rounds.done()[before:] == ["full/seed-0"]
    assert outcome.missing == []
    assert not (tmp_path / "out").exists()


def test_arms_of_the_same_settings_are_flagged(plan, rounds, capfd):
    arms = [{"name": name, "set": {"strategy": name[:6]}} for name in ("random", "random2")]
    outcome = compare.run_comparison(plan(arms=arms, primary=None))
    said = "random and random2 are the same settings under 2 names"
    assert said in capfd.readouterr().err.replace("\n", " ")
    scores = next(t for t in outcome.tables if t.title == "mIoU by budget")
    assert any(note.startswith(said) for note in scores.notes)


def test_partial_does_nothing_but_report(plan, rounds, tmp_path):
    with pytest.raises(SegalError, match="no run of the baseline"):
        compare.run_comparison(plan(), partial=True)
    rounds.broken = {"full": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        compare.run_comparison(plan())
    count = len(rounds.done())
    outcome = compare.run_comparison(plan(), partial=True)
    assert len(rounds.done()) == count
    assert outcome.missing == ["full, seed 0", "random, seed 1", "uwe, seed 1"]
    assert len(rounds.reports) == 1
    scores = next(t for t in outcome.tables if t.title == "mIoU by budget")
    assert [row[:3] for row in scores.rows if row[1] == 2] == [
        ("random", 2, 1),
        ("uwe", 2, 1),
    ]


def test_processes_share_the_runs(plan, rounds):
    rounds.seconds = 0.15
    context = multiprocessing.get_context("fork")
    made = plan()
    processes = [context.Process(target=compare.run_comparison, args=(made,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert Counter(rounds.done()) == Counter(SEED_BY_SEED)  # each once
    assert len({pid for pid, _ in rounds.lines()}) > 1
    assert compare.run_comparison(made).missing == []


def test_the_run_of_a_process_that_died_is_taken_over(plan, rounds, tmp_path):
    """A held folder is waited for; when its process is gone, the run is done here."""
    meanwhile = ["full/seed-0", *SEED_BY_SEED[4:]]  # all that does not need it
    held = tmp_path / "out" / "start" / "seed-0"
    held.mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def hold():
        descriptor = lock(held)
        ready.set()
        while len(rounds.done()) < len(meanwhile):
            time.sleep(0.01)
        os._exit(descriptor and 1)

    (tmp_path / "out" / "compare.yaml").touch()
    process = context.Process(target=hold)
    process.start()
    assert ready.wait(10)
    compare.run_comparison(plan())
    process.join()
    assert rounds.done() == [*meanwhile, *SEED_BY_SEED[:3]]


def test_runs_of_other_settings_are_refused(plan, rounds, tmp_path):
    compare.run_comparison(plan())
    raw = plan().config.model_dump(mode="json")
    raw["run"]["train"] = {"lr": 0.5}
    with pytest.raises(SegalError, match="holds runs of other settings") as caught:
        compare.run_comparison(plan_comparison(raw))
    assert "train.lr: 0.01 in the folder, 0.5 now" in caught.value.got
    assert len(rounds.done()) == len(SEED_BY_SEED)
    # Where nothing has begun, settings may change.
    compare.run_comparison(plan_comparison(raw | {"out": str(tmp_path / "new")}))
    shutil.rmtree(tmp_path / "new" / "runs" / "uwe" / "seed-0")
    shutil.rmtree(tmp_path / "new" / "runs" / "uwe" / "seed-1")
    raw["arms"][1]["set"] = {"strategy": {"name": "uwe", "tau": 0.1}}
    outcome = compare.run_comparison(plan_comparison(raw | {"out": str(tmp_path / "new")}))
    assert outcome.missing == []


def test_more_budgets_go_on_in_the_same_folder(plan, rounds, tmp_path):
    raw = plan().config.model_dump(mode="json")
    shorter = raw | {"run": raw["run"] | {"budgets": ["10%"]}}
    compare.run_comparison(plan_comparison(shorter))
    rounds.broken = {"uwe": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        compare.run_comparison(plan_comparison(raw))
    # What needs no more rounds is finished as it is; the others go on.
    assert rounds.done()[len(SEED_BY_SEED) :] == ["random/seed-0", "uwe/seed-0"]
    assert compare.run_comparison(plan_comparison(raw), partial=True).missing == [
        "uwe, seed 0", "random, seed 1", "uwe, seed 1"
    ]  # fmt: skip
    rounds.broken = {}
    outcome = compare.run_comparison(plan_comparison(raw))
    assert outcome.missing == []
    assert rounds.done()[len(SEED_BY_SEED) + 2 :] == ["uwe/seed-0", "random/seed-1", "uwe/seed-1"]
    scores = next(t for t in outcome.tables if t.title == "mIoU by budget")
    assert {row[1] for row in scores.rows if row[0] == "uwe"} == {0, 1, 2}
    with pytest.raises(SegalError, match="holds runs of other settings") as caught:
        compare.run_comparison(plan_comparison(shorter))
    assert 'budgets: ["10%","10%"] in the folder, ["10%"] now' in caught.value.got


def test_the_full_arm_is_not_trained_for_longer_under_its_name(plan, rounds):
    raw = plan().config.model_dump(mode="json")
    raw["run"] |= {"start": "warm", "budgets": ["10%"]}
    compare.run_comparison(plan_comparison(raw))
    raw["run"]["budgets"] = ["10%", "10%"]
    with pytest.raises(SegalError, match="holds runs of other settings") as caught:
        compare.run_comparison(plan_comparison(raw))
    assert "train.iterations" in caught.value.got
    assert "under another name" in caught.value.remedy
    raw["arms"][2]["name"] = "full-3"
    assert compare.run_comparison(plan_comparison(raw)).missing == []


def test_runs_of_labels_that_differ_are_not_compared(plan, rounds, tmp_path):
    compare.run_comparison(plan())
    for arm, label in (("random", "a"), ("uwe", "b")):
        with sqlite3.connect(
            tmp_path / "out" / "runs" / arm / "seed-1" / "ledger.sqlite"
        ) as ledger:
            ledger.execute("UPDATE purchases SET label = ? WHERE phase = 1 AND rank = 1", (label,))
        ledger.close()
    with pytest.raises(SegalError, match="trained on another label of street/"):
        compare.run_comparison(plan(target=0.5))


def test_partial_refuses_other_settings_as_well(plan, rounds, tmp_path):
    """Else the runs of other settings would be reported under an arm's new ones."""
    compare.run_comparison(plan())
    raw = plan().config.model_dump(mode="json")
    raw["arms"][1]["set"] = {"strategy": {"name": "uwe", "tau": 0.1}}
    with pytest.raises(SegalError, match="holds runs of other settings"):
        compare.run_comparison(plan_comparison(raw), partial=True)
    assert "tau: 0.1" not in (tmp_path / "out" / "compare.yaml").read_text()


def test_a_folder_of_something_else_is_refused(plan, rounds, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    with pytest.raises(SegalError, match="not a folder of segal compare"):
        compare.run_comparison(plan())
    assert rounds.done() == []
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".lock", "thesis.txt"]


def test_runs_of_another_protocol_are_not_put_into_one_table(plan, rounds, monkeypatch, tmp_path):
    def other(config):
        make_run(
            config.out.parent / "made",
            strategy=config.strategy,
            seed=config.seed,
            scores=SCORES[config.strategy["name"]],
            settings={"train.iterations": 7},
        )
        for file in (config.out.parent / "made").iterdir():
            if file.name != ".lock":
                file.rename(config.out / file.name)
        shutil.rmtree(config.out.parent / "made")

    leave = rounds.leave
    monkeypatch.setattr(
        rounds, "leave", lambda c: other(c) if c.out.parent.name == "uwe" else leave(c)
    )
    with pytest.raises(SegalError, match="not of one protocol") as caught:
        compare.run_comparison(plan())
    assert "train.iterations" in str(caught.value)
    assert not (tmp_path / "out" / "comparison.json").exists()


def test_made_scenes_are_drawn_once_for_all_runs(plan, rounds, monkeypatch, tmp_path):
    drawn, given = [], []

    def spy(config, strategy, *, start=None):
        given.append(config.data.scenes)
        rounds(config, strategy)

    monkeypatch.setattr(compare, "draw_scenes", drawn.append)
    monkeypatch.setattr(compare, "run_rounds", spy)
    raw = plan().config.model_dump(mode="json")
    raw["run"]["data"]["scenes"] = {"train": 8}
    for _ in range(2):
        compare.run_comparison(plan_comparison(raw))
    assert [data.scenes.train for data in drawn] == [8]
    assert given == [None] * len(SEED_BY_SEED)


def test_a_damaged_file_is_named(plan, rounds, tmp_path):
    compare.run_comparison(plan())
    (tmp_path / "out" / "runs" / "uwe" / "arm.json").write_text("{")
    with pytest.raises(SegalError, match=r"arm\.json: damaged"):
        compare.run_comparison(plan())


def test_threads_of_several_processes(plan, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    config = plan().config
    assert compare._threads(config, 1) is None
    assert compare._threads(config, 2) == 1
    config = plan(machine={"threads": 3}).config
    assert compare._threads(config, 2) == 3
