"""Runs that go on though something changed: more budgets, corrected labels; and what is refused."""

import json
import shutil
import sqlite3

import cv2
import pytest

from segal.errors import SegalError
from segal.jobs.rounds import loop as job
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run
from segal.runs.history import read_history
from segal.runs.ledger import Ledger
from segal.runs.oracle import Oracle
from segal.scanning.scan import Scan
from segal.scenes.synthetic import make_scenes
from tests.quick_run import quick_run

BUDGETS = ["10%", "4"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, splits={"train": 8, "val": 2}, size=(64, 128), seed=0)
    return root


def run(root, out, /, **changes):
    quick = {"overlays": 0, "measure_picks": False, "budgets": BUDGETS, **changes}
    return run_rounds(*configure_run(quick_run(root, out=str(out), **quick)))


@pytest.fixture(scope="module")
def whole(scenes, tmp_path_factory):
    """A run whose budgets were known from the start: its folder."""
    return run(scenes, tmp_path_factory.mktemp("whole") / "run").history.folder


@pytest.fixture
def copied(whole, scenes, tmp_path):
    """That run and its data set, to change: (data set, run folder)."""
    shutil.copytree(scenes, tmp_path / "data")
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "data", tmp_path / "run"


@pytest.fixture
def work(monkeypatch):
    """What is done: `train` and `scan`, in order."""
    done, train, scan = [], job.train, Scan.run
    monkeypatch.setattr(job, "train", lambda *a, **k: done.append("train") or train(*a, **k))
    monkeypatch.setattr(Scan, "run", lambda *a, **k: done.append("scan") or scan(*a, **k))
    return done


def purchases(folder):
    with Ledger.read(folder) as ledger:
        return [(p.round, p.rank, p.image, p.box, p.pixels, p.clicks) for p in ledger.purchases()]


def networks(folder):
    return [p.read_bytes() for p in sorted(folder.glob("rounds/*/model.safetensors"))]


def label_file(data, image):
    name = image.replace("_leftImg8bit", "_gtFine_labelIds")
    return data / "gtFine" / "train" / name


def correct(data, image, box):
    """Makes a region another class than it was."""
    path = label_file(data, image)
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    x0, y0, x1, y1 = box
    label[y0:y1, x0:x1] = 8 if (label[y0:y1, x0:x1] == 7).all() else 7
    cv2.imwrite(str(path), label)


# More budgets


def test_a_run_goes_on_where_its_budgets_do(scenes, whole, work, tmp_path):
    out = tmp_path / "run"
    run(scenes, out, budgets=BUDGETS[:1])
    before, files = purchases(out), networks(out)
    assert work == ["train", "scan", "train"]
    work.clear()
    history = run(scenes, out).history
    assert work == ["scan", "train"]
    assert purchases(out) == purchases(whole)
    assert purchases(out)[: len(before)] == before
    assert networks(out) == networks(whole)
    assert networks(out)[:2] == files
    assert [r.number for r in history.rounds] == [0, 1, 2]
    assert history.scores == read_history(whole).scores
    summary = json.loads((out / "summary.json").read_text())
    assert summary["fingerprint"] == history.fingerprint == read_history(whole).fingerprint
    # Fewer, others and other settings are no prefix.
    for changes in ({"budgets": BUDGETS[:1]}, {"budgets": ["12%", *BUDGETS]}, {"seed": 1}):
        with pytest.raises(SegalError, match="holds another run") as caught:
            run(scenes, out, **changes)
        assert f"{next(iter(changes))}: " in caught.value.got
        assert ("may go on here" in caught.value.remedy) == ("budgets" in changes)


def test_a_run_that_ended_early_ends_there_with_more_budgets_too(scenes, work, tmp_path):
    data = {"root": str(scenes), "validation": "val"}
    early = {"data": data, "target": 1e-6, "train": quick_run(scenes)["train"]}
    early["train"]["validate_every"] = 0
    run(scenes, tmp_path / "good", **early, budgets=["4"])
    again = run(scenes, tmp_path / "good", **early, budgets=["4", "4"])
    assert len(again.history.rounds) == 1
    assert sum("reached the target" in note for note in again.notes) == 1
    used_up = {"seed_set": "7img", "region": "image", "strategy": {"name": "random"}}
    run(scenes, tmp_path / "all", **used_up, budgets=["1"])
    again = run(scenes, tmp_path / "all", **used_up, budgets=["1", "1"])
    assert [r.share for r in again.history.rounds] == [7 / 8, 1]
    assert any("used up" in note for note in again.notes)
    assert work == ["train", "train", "scan", "train"]


# Corrected labels


def test_a_label_that_was_bought_late_leaves_the_rounds_before_as_they_are(copied, work, tmp_path):
    data, out = copied
    before, bought = networks(out), purchases(out)
    *_, image, box, _, _ = next(p for p in bought if p[0] == 1)  # first trained on in round 2
    correct(data, image, box)
    outcome = run(data, out)
    assert work == ["train"]
    assert purchases(out) == bought
    assert networks(out)[:2] == before[:2]
    # What it comes to is what a run comes to that never saw the old label.
    other = run(data, tmp_path / "other").history.folder
    assert networks(out) == networks(other)
    assert [p[:4] for p in purchases(other)] == [p[:4] for p in bought]
    said = [note for note in outcome.notes if "trained and evaluated again" in note]
    assert len(said) == 1
    assert image in said[0] and "Round 2 and" in said[0]
    # It is booked: nothing is done again, and still told.
    work.clear()
    assert said[0] in run(data, out).notes
    assert work == []
    with Ledger.read(out) as ledger:
        assert ledger.damage() == []


def test_a_label_of_the_seed_set_trains_all_again_and_buys_nothing(copied, work, tmp_path):
    data, out = copied
    before, bought = networks(out), purchases(out)
    selected = [p.read_bytes() for p in sorted(out.glob("rounds/*/selection.csv"))]
    seed_set = read_history(out).seed_set
    correct(data, seed_set[0].image, seed_set[0].box)
    outcome = run(data, out)
    assert work == ["train"] * 3
    assert purchases(out) == bought
    assert [p.read_bytes() for p in sorted(out.glob("rounds/*/selection.csv"))] == selected
    assert networks(out)[0] != before[0]
    assert len(outcome.history.rounds) == 3
    first = run(data, tmp_path / "first", budgets=[]).history.folder
    assert networks(first) == networks(out)[:1]
    # It goes on with more budgets, by the networks that it has now.
    work.clear()
    longer = run(data, out, budgets=[*BUDGETS, "3"]).history
    assert work == ["scan", "train"]
    assert len(longer.rounds[-2].bought) == 3


def test_labels_outside_of_what_is_bought_are_nothing_to_a_run(copied, work):
    data, out = copied
    bought = purchases(out)
    image = next(p[2] for p in bought if p[0] == 1)
    others = [p[3] for p in bought if p[2] == image]
    free = [(x, y, x + 32, y + 32) for y in (0, 32) for x in (0, 32, 64, 96)]
    correct(data, image, next(tile for tile in free if tile not in others))
    run(data, out)
    assert work == []
    assert purchases(out) == bought


@pytest.mark.parametrize("stopped", ["before it is trained again", "before it bought"])
def test_a_run_that_was_stopped_over_a_correction_goes_on(
    segal, whole, copied, work, monkeypatch, tmp_path, stopped
):
    data, out = copied
    if stopped == "before it bought":
        out = tmp_path / "stopped"
        finish = Ledger.finish

        def stop(self, phase, number, *arguments, **options):
            if (phase, number) == ("buy", 1):
                raise KeyboardInterrupt
            return finish(self, phase, number, *arguments, **options)

        monkeypatch.setattr(Ledger, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            run(data, out)
        monkeypatch.setattr(Ledger, "finish", finish)
        image, box = next(p[2:4] for p in purchases(out) if p[4] == 32 * 32)
        correct(data, image, box)
        work.clear()
        assert segal("run", "--config", out / "config.yaml")[0] == 0
        # The choice that nothing was bought by is made again, and is that of a run that never saw
        # the old label.
        assert work == ["train", "scan", "train"]
        other = run(data, tmp_path / "other").history.folder
        assert networks(out) == networks(other)
        assert [p[:5] for p in purchases(out)] == [p[:5] for p in purchases(other)]
        return
    correct(data, *next(p[2:4] for p in purchases(out) if p[0] == 1))
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(job, "train", lambda *a, **k: 1 / 0)
        run(data, out)
    assert len(read_history(out).rounds) == 2
    assert not (out / "summary.json").exists()
    run(data, out)
    assert work == ["train"]
    assert purchases(out) == purchases(whole)


def test_a_run_of_before_labels_were_booked_goes_on_and_refuses_other_labels(
    scenes, copied, work, monkeypatch, tmp_path
):
    data, _ = copied
    out = tmp_path / "old"
    with monkeypatch.context() as patch:
        patch.setattr(Oracle, "digests", lambda self, image, boxes: [None] * len(boxes))
        run(data, out, budgets=["4"])
    work.clear()
    run(data, out, budgets=["4", "4"])
    assert work == ["scan", "train"]
    correct(data, read_history(out).seed_set[0].image, (0, 0, 20, 20))
    with pytest.raises(SegalError, match="train of round 0 was done with other inputs"):
        run(data, out, budgets=["4", "4"])


@pytest.mark.slow
def test_a_comparison_goes_on_with_more_budgets_and_corrected_labels(segal, scenes, work, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(scenes, data)
    shared = quick_run(data, seed_set="1img", overlays=0, measure_picks=False, budgets=["4"])
    del shared["strategy"], shared["machine"]
    raw = {
        "run": shared,
        "arms": [{"name": name, "set": {"strategy": name}} for name in ("random", "entropy")],
        "seeds": [0],
        "permutations": 100,
    }
    (tmp_path / "compare.yaml").write_text(json.dumps(raw))
    call = ("compare", "--config", tmp_path / "compare.yaml", "--out", out, "--threads", 1)
    assert segal(*call)[0] == 0
    assert work.count("train") == 3  # the first round is shared
    longer = (*call, "run.budgets=4,3")
    assert segal(*longer)[0] == 0
    assert work.count("train") == 5
    arms = [out / "runs" / arm / "seed-0" for arm in ("random", "entropy")]
    bought = [purchases(arm) for arm in arms]
    first = read_history(arms[0]).seed_set[0]
    correct(data, first.image, first.box)
    work.clear()
    assert segal(*longer)[0] == 0
    assert work == ["train"] * 5
    assert [purchases(arm) for arm in arms] == bought
    assert len({networks(arm)[0] for arm in arms} | {networks(out / "start" / "seed-0")[0]}) == 1
    # One of its own is that arm's alone.
    others = {p[2:4] for p in bought[0]}
    correct(data, *next(p[2:4] for p in bought[1] if p[0] == 1 and p[2:4] not in others))
    work.clear()
    assert segal(*longer)[0] == 0
    assert work == ["train"]
    data.rename(tmp_path / "away")
    code, _, stderr = segal(*longer, "target=0.5")
    assert code == 0
    assert "corrected cannot be told" in stderr


# What is refused, by name


@pytest.mark.parametrize("change", ["label", "image"])
def test_what_is_held_out_stays_as_it_is(copied, change):
    data, out = copied
    if change == "label":
        path = next(data.glob("gtFine/val/*/*_labelIds.png"))
    else:
        path = min(data.glob("leftImg8bit/val/*/*.png"))
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    pixels[:4] = 7
    cv2.imwrite(str(path), pixels)
    with pytest.raises(SegalError, match="not the files that it began with") as caught:
        run(data, out)
    name = path.name.replace("_gtFine_labelIds", "_leftImg8bit")
    assert f"{change}s of test: 1 changed ({path.parent.name}/{name})" in caught.value.got
    with sqlite3.connect(out / "ledger.sqlite") as ledger:  # of a version that kept no names
        ledger.execute("DELETE FROM inputs")
    ledger.close()
    with pytest.raises(SegalError, match="seed of round 0 was done with other inputs"):
        run(data, out)


def test_a_training_names_the_labels_that_changed(segal, copied, tmp_path):
    data, out = copied
    image = read_history(out).rounds[0].bought[0].image
    call = (
        "train", "--data", data, "--labelled", out, "--out", tmp_path / "trained",
        "--arch", "tests.tiny_network:build", "train.iterations=1", "train.crop=64",
        "train.workers=0",
    )  # fmt: skip
    assert segal(*call)[0] == 0
    correct(data, image, (0, 0, 128, 64))
    code, _, stderr = segal(*call, "seed=3")
    assert code == 2
    assert "seed: 0 in the folder, 3 now" in stderr
    code, _, stderr = segal(*call)
    assert code == 2
    assert f"labels of training: 1 changed ({image})" in stderr.replace("\n    ", " ")
