"""Picks go out to annotators and come back, and what is trained on is what they drew."""

import json
import shutil
import sqlite3
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from segal.annotation.answers import Layer
from segal.annotation.formats import FORMATS
from segal.annotation.handout import MANIFEST_FILE
from segal.annotation.manifest import read_manifest_text
from segal.config import RunConfig, read_config, validate
from segal.jobs.labelled import Labelled
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint
from segal.reporting.arms import gather
from segal.reporting.details import cost_table
from segal.runs.history import read_history
from segal.runs.ledger import Ledger
from segal.runs.returns import book_handout, handouts_of, latest, returns_of
from segal.tasks import find_task
from tests.desk import Desk, draw_scenes, painted

_NETWORK = "tests.tiny_network:build"
_CLASSES = ("road", "sky", "car")


@pytest.fixture
def desk(monkeypatch):
    """A format for tests."""
    made = Desk()
    monkeypatch.setitem(FORMATS, "desk", made)
    return made


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Six images to label and two that are labelled, of a size that no region divides."""
    return draw_scenes(tmp_path_factory.mktemp("scenes"), _CLASSES)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network that nobody trained."""
    path = tmp_path_factory.mktemp("network") / "model.safetensors"
    torch.manual_seed(0)
    save_checkpoint(build_model(make_spec(_NETWORK, "resnet18", _CLASSES)).eval(), path)
    return path


@pytest.fixture
def selected(segal, scenes, network, tmp_path):
    """A selection of eight regions."""
    out = tmp_path / "selected"
    code, _, stderr = segal(
        *(
            "select",
            "--images",
            scenes / "images/train",
            "--checkpoint",
            network,
            "--arch",
            _NETWORK,
        ),
        *("--region", "32", "--budget", "8", "--overlays", "0", "--strategy", "entropy"),
        *("--out", out),
    )
    assert code == 0, stderr
    return out


def _export(segal, run, out, *further):
    code, stdout, stderr = segal("export", run, "--to", "desk", "--out", out, *further)
    assert code == 0, stderr
    return read_manifest_text((out / MANIFEST_FILE).read_text(), ""), stdout, stderr


def _train(segal, scenes, run, out, *further):
    return segal(
        *("train", "--data", scenes, "--labelled", run, "--iterations", "1", "--out", out),
        *("--threads", "1", f"model.architecture={_NETWORK}", "train.batch_size=2"),
        *("train.crop=32", "train.workers=0", *further),
    )


def _labels(scenes, run):
    """What a training reads of the images of the pool, by path."""
    raw = {
        **{"data": {"root": str(scenes), "validation": "val"}, "seed_set": "1img"},
        **{"budgets": [], "strategy": {"name": "random"}, "out": str(run)},
    }
    config, _ = validate(RunConfig, raw)
    given = Labelled.open([run])
    dataset = find_task("segmentation").open_split(
        config.data, "train", given.images, missing_labels=True
    )
    dataset = given.answered(dataset, "segmentation")
    return {path: dataset.read_label(i) for i, path in enumerate(dataset.pool.paths)}


def _truth(scenes, handout):
    """The same from the truth, pixel by pixel."""
    labels = {}
    for task in handout.tasks:
        label = labels.setdefault(task.image, np.full(task.size, 255, np.uint8))
        x0, y0, x1, y1 = task.region
        truth = cv2.imread(str(scenes / "truth/train" / task.image), cv2.IMREAD_UNCHANGED)
        label[y0:y1, x0:x1] = truth[y0:y1, x0:x1]
    return labels


@pytest.mark.parametrize("mode", [("--mode", "context"), ("--mode", "crop", "--pad", "5")])
def test_what_is_trained_on_is_what_was_drawn(segal, desk, scenes, selected, tmp_path, mode):
    handout, stdout, _ = _export(segal, selected, tmp_path / "handout", *mode)
    assert stdout.split() == [str(tmp_path / "handout" / "tasks.json")]
    assert [task.rank for task in handout.tasks] == list(range(1, 9))
    for task in handout.tasks if "crop" in mode else ():
        crop = cv2.imread(str(tmp_path / "handout" / task.file))
        image = cv2.imread(str(scenes / "images/train" / task.image))
        x0, y0, x1, y1 = task.frame
        np.testing.assert_array_equal(crop, image[y0:y1, x0:x1])
    answers = [painted(t, scenes / "truth/train", _CLASSES, seconds=9.0) for t in handout.tasks]
    desk.drawn["half"], desk.drawn["late"] = answers[:5], answers[5:]
    code, _, stderr = segal("import", selected, "half")
    assert code == 0, stderr
    assert "5 regions came back" in stderr
    assert "3 are open" in stderr
    code, stdout, _ = segal("status", selected)
    assert "3 regions with annotators" in stdout and "segal select" not in stdout
    code, _, stderr = _train(segal, scenes, selected, tmp_path / "early")
    assert code == 2
    assert "no label has come for 3 of 8 regions" in stderr
    code, _, stderr = _train(segal, scenes, selected, tmp_path / "m1", "--missing-labels", "skip")
    assert code == 0, stderr
    code, _, stderr = segal("import", selected, "late", "half")
    assert code == 0, stderr
    assert (
        "3 regions came back, 0 answers replaced earlier ones, 0 are second opinions, 5 were known"
        in stderr.replace("\n", " ")
    )
    assert "0.02 hours" in stderr
    truth, labels = _truth(scenes, handout), _labels(scenes, selected)
    assert labels.keys() == truth.keys()
    for path, label in truth.items():
        np.testing.assert_array_equal(labels[path], label)
    code, _, stderr = _train(segal, scenes, selected, tmp_path / "m2")
    assert code == 0, stderr
    code, stdout, _ = segal("status", selected)
    assert f"segal train --labelled {selected} trains on them" in stdout
    assert f"Then the next selection: segal select ... --labelled {selected}" in stdout


def test_mistakes_are_told_all_at_once_and_nothing_is_booked(
    segal, desk, scenes, selected, tmp_path
):
    handout, _, _ = _export(segal, selected, tmp_path / "handout")
    truth = scenes / "truth/train"
    good = [painted(task, truth, _CLASSES) for task in handout.tasks]
    unpainted = replace(good[0], layers=good[0].layers[:1])
    renamed = replace(good[1], layers=[replace(x, name=x.name + "s") for x in good[1].layers])
    foreign = replace(good[2], key="0" * 16)
    desk.drawn["bad"] = [unpainted, renamed, foreign, *good[3:]]
    code, _, stderr = segal("import", selected, "bad")
    assert code == 2
    flat = " ".join(stderr.split())
    for words in ("are not painted", "is none of the classes", f"task {'0' * 16} is none of"):
        assert words in flat
    with Ledger.read(selected) as ledger:
        assert returns_of(ledger) == []
    assert not (selected / "returns").exists()
    code, _, stderr = segal("import", selected, "bad", "--skip-bad", "--dry-run")
    assert (code, "dry run" in stderr) == (0, True)
    with Ledger.read(selected) as ledger:
        assert returns_of(ledger) == []
    code, _, stderr = segal("import", selected, "bad", "--skip-bad")
    assert (code, "5 regions came back" in stderr) == (0, True)
    desk.drawn["void"] = [unpainted]
    code, _, stderr = segal("import", selected, "void", "--unpainted", "road")
    assert code == 0, stderr
    code, _, stderr = segal("import", selected, "void", "--unpainted", "grass")
    assert (code, "grass is no class" in stderr) == (2, True)


def test_what_nobody_has_worked_on_is_told_and_what_holds_no_answers_is_refused(
    segal, desk, selected, tmp_path
):
    _export(segal, selected, tmp_path / "handout")
    desk.drawn["untouched"] = []
    code, _, stderr = segal("import", selected, "untouched")
    assert (code, "nobody has worked on any of its tasks" in " ".join(stderr.split())) == (0, True)
    code, _, stderr = segal("export", selected, "--to", "folder", "--out", tmp_path / "folder")
    assert code == 0, stderr
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "gone", tmp_path / "folder" / "classes.txt"):
        code, _, stderr = segal("import", selected, path)
        assert (code, "remedy:" in stderr, "Traceback" in stderr) == (2, True, False), stderr


def test_answers_to_an_earlier_handout_come_in_and_its_classes_must_be_the_same(
    segal, desk, scenes, selected, tmp_path
):
    ways = (("--mode", "context"), ("--mode", "crop", "--pad", "3"), ("--mode", "crop"))
    handed = [_export(segal, selected, tmp_path / way[-1], *way)[0] for way in ways]
    truth = scenes / "truth/train"
    for first, handout in enumerate(handed):
        desk.drawn[f"late{first}"] = [
            replace(painted(task, truth, _CLASSES), frame=task.frame)
            for task in handout.tasks[2 * first : 2 * first + 2]
        ]
    code, _, stderr = segal("import", selected, "late0", "late1", "late2")
    assert (code, "6 regions came back" in " ".join(stderr.split())) == (0, True), stderr
    labels = _labels(scenes, selected)
    for path, label in _truth(scenes, replace(handed[0], tasks=handed[0].tasks[:6])).items():
        np.testing.assert_array_equal(labels[path], label)
    with Ledger.reopen(selected) as ledger:  # as it was handed out when there was one class more
        (last,) = handouts_of(ledger, "desk")[-1:]
        book_handout(ledger, replace(last, classes=(*_CLASSES, "tree", "void"), tasks=()))
    code, _, stderr = segal("import", selected, "late0")
    flat = " ".join(stderr.split())
    assert (code, "had other classes" in flat, "--handout" in flat) == (2, True, True), stderr
    manifest = tmp_path / "context" / MANIFEST_FILE
    code, _, stderr = segal("import", selected, "late0", "--handout", manifest)
    assert (code, "2 were known" in " ".join(stderr.split())) == (0, True), stderr


def test_an_answer_that_changes_is_another_version(segal, desk, scenes, selected, tmp_path):
    handout, _, _ = _export(segal, selected, tmp_path / "handout")
    truth = scenes / "truth/train"
    good = [painted(task, truth, _CLASSES, seconds=60.0) for task in handout.tasks]
    desk.drawn["first"] = good
    assert segal("import", selected, "first")[0] == 0
    height, width = handout.tasks[0].frame_size
    all_sky = Layer("sky", np.ones((height, width), np.bool_), order=1)
    other = replace(good[0], layers=[*good[0].layers, all_sky], seconds=90.0)
    desk.drawn["second"] = [other, *good[1:]]
    code, _, stderr = segal("import", selected, "second")
    assert code == 2
    assert "came back before, and says something else now" in stderr
    code, _, stderr = segal("import", selected, "second", "--replace")
    assert (code, "1 answers replaced" in stderr) == (0, True)
    with Ledger.read(selected) as ledger:
        everything = returns_of(ledger)
        assert len(everything) == 9
        assert sum(one.seconds for one in latest(everything)) == 7 * 60 + 90
    labels = _labels(scenes, selected)
    x0, y0, x1, y1 = handout.tasks[0].region
    assert (labels[handout.tasks[0].image][y0:y1, x0:x1] == 1).all()
    old = everything[0]
    np.testing.assert_array_equal(
        cv2.imread(str(selected / old.file), cv2.IMREAD_UNCHANGED),
        cv2.imread(str(truth / old.image), cv2.IMREAD_UNCHANGED)[
            old.box[1] : old.box[3], old.box[0] : old.box[2]
        ],
    )
    (selected / everything[-1].file).write_bytes(b"")
    with pytest.raises(Exception, match="not as it was booked"):
        _labels(scenes, selected)


def test_two_annotators_are_compared_only_where_two_were_asked(
    segal, desk, scenes, selected, tmp_path
):
    handout, _, stderr = _export(
        *(segal, selected, tmp_path / "handout", "--annotators", "ann,bob", "--overlap", "0.25")
    )
    assert "8 regions, shared out: ann 5, bob 5" in stderr
    doubled = [key for key, tasks in handout.by_key.items() if len(tasks) == 2]
    assert len(doubled) == 2
    truth = scenes / "truth/train"
    answers = []
    for task in handout.tasks:
        one = painted(task, truth, _CLASSES, annotator=task.annotator)
        answers.append(one)
    second = next(i for i, t in enumerate(handout.tasks) if t.key == doubled[0])
    height, width = handout.tasks[second].frame_size
    blob = np.zeros((height, width), np.bool_)
    x0, y0, _, _ = handout.tasks[second].region
    blob[y0, x0 : x0 + 3] = True
    worse = [*answers[second + 1].layers, Layer("car", blob, order=1)]
    answers[second + 1] = replace(answers[second + 1], layers=worse)
    desk.drawn["both"] = answers
    code, _, stderr = segal("import", selected, "both")
    assert code == 0, stderr
    assert "2 are second opinions" in " ".join(stderr.split())
    code, stdout, _ = segal("status", selected)
    assert "Where two annotators answered" in stdout
    # The label is the first annotator's.
    labels = _labels(scenes, selected)
    for path, label in _truth(scenes, handout).items():
        np.testing.assert_array_equal(labels[path], label)
    single = next(t for t in handout.tasks if t.key not in doubled)
    desk.drawn["carl"] = [painted(single, truth, _CLASSES, annotator="carl")]
    code, _, stderr = segal("import", selected, "carl")
    assert (code, "answered by carl too" in stderr) == (2, True)


def test_drafts_are_the_network_s_own_answers(segal, desk, scenes, selected, tmp_path):
    handout, _, _ = _export(segal, selected, tmp_path / "handout", "--drafts")
    assert handout.model is not None
    assert desk.drafts.keys() == {task.key for task in handout.tasks}
    desk.drawn["untouched"] = list(desk.drafts.values())
    code, _, stderr = segal("import", selected, "untouched", "--untouched", "ignore")
    assert (code, "are not painted" in stderr) == (2, True)
    code, _, stderr = segal("import", selected, "untouched")
    assert code == 0, stderr
    assert "which nobody touched" in stderr


def test_places_and_names_that_will_not_do(segal, desk, scenes, selected, tmp_path):
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "thesis.tex").write_text("mine")
    for words, arguments in {
        "segal export did not make": ("--to", "desk", "--out", occupied),
        "did you mean desk?": ("--to", "desc", "--out", tmp_path / "x"),
        "one of context, crop": ("--to", "desk", "--out", tmp_path / "x", "--mode", "tiles"),
        "a name twice": ("--to", "desk", "--out", tmp_path / "x", "--annotators", "a,a"),
        "within the folder of images": ("--to", "desk", "--out", scenes / "images/train/x"),
    }.items():
        code, _, stderr = segal("export", selected, *arguments)
        assert (code, words in " ".join(stderr.split())) == (2, True), stderr
    assert (occupied / "thesis.tex").read_text() == "mine"
    code, _, stderr = segal("import", selected, "x")
    assert (code, "nothing was handed out" in stderr) == (2, True)


def _refused(segal, words, *arguments):
    code, _, stderr = segal("export", *arguments)
    flat = " ".join(stderr.split())
    assert code == 2, flat
    for word in words:
        assert word in flat, flat


@pytest.mark.parametrize("kind", [kind for kind in sorted(FORMATS) if kind != "desk"])
def test_a_handout_takes_no_one_s_work_away(segal, selected, tmp_path, kind):
    out = tmp_path / "handout"
    export = (selected, "--to", kind, "--out", out)
    assert segal("export", *export)[0] == 0
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert segal("export", *export)[0] == 0  # the same again, in its own place
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    with Ledger.read(selected) as ledger:
        assert len(handouts_of(ledger)) == 1
    name = next(iter(read_manifest_text((out / MANIFEST_FILE).read_text(), "").files))
    changed = out / name
    changed.unlink()  # what is gone is no loss
    assert segal("export", *export)[0] == 0
    changed.write_bytes(before[changed] + b" ")
    _refused(segal, (f"got: {name}: new, or changed", "segal import", "--out"), *export)
    assert changed.read_bytes() == before[changed] + b" "
    changed.write_bytes(before[changed])
    for number in range(7):
        (out / "labels").mkdir(exist_ok=True)
        (out / "labels" / f"painted-{number}.png").write_bytes(b"mine")
    words = ("labels/painted-0.png, labels/painted-1.png", "painted-4.png and 2 more: new")
    _refused(segal, words, *export)
    assert (out / "labels/painted-6.png").read_bytes() == b"mine"


def test_a_handout_takes_the_place_of_its_own_kind_only(
    segal, desk, scenes, network, selected, tmp_path, monkeypatch
):
    out, other = tmp_path / "handout", tmp_path / "other"
    place = ("--to", "desk", "--out", out)
    _export(segal, selected, out)
    before = (out / MANIFEST_FILE).read_bytes()
    _refused(segal, ("this run to desk, mode context",), selected, *place, "--mode", "crop")
    _refused(segal, ("got: one of this run to desk",), selected, "--to", "coco", "--out", out)
    code, _, stderr = segal(
        *("select", "--images", scenes / "images/train", "--checkpoint", network, "--arch"),
        *(_NETWORK, "--region", "32", "--budget", "3", "--overlays", "0", "--out", other),
    )
    assert code == 0, stderr
    _refused(segal, ("got: one of another run to desk, mode context",), other, *place)
    assert (out / MANIFEST_FILE).read_bytes() == before
    # Of before it was written down what is in a handout: nobody can tell whether it was changed.
    old = json.loads(before)
    del old["files"]
    (out / MANIFEST_FILE).write_text(json.dumps(old))
    _refused(segal, ("tasks.json: it is not known what was written",), selected, *place)
    (out / MANIFEST_FILE).write_text("{")
    _refused(segal, ("segal export did not make",), selected, *place)
    (out / MANIFEST_FILE).write_bytes(before)
    (out / "link").symlink_to(out / "nowhere")
    _refused(segal, ("got: link: new",), selected, *place)


def test_an_export_that_was_stopped_is_made_again_in_its_place(
    segal, desk, selected, tmp_path, monkeypatch
):
    out = tmp_path / "handout"
    with monkeypatch.context() as patch:
        patch.setattr("segal.jobs.annotate.export.book_handout", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            segal("export", selected, "--to", "desk", "--out", out)
    assert (out / MANIFEST_FILE).is_file()
    with Ledger.read(selected) as ledger:
        assert handouts_of(ledger) == []
    handout, _, _ = _export(segal, selected, out)
    with Ledger.read(selected) as ledger:
        assert handouts_of(ledger) == [handout]


def test_what_is_painted_while_an_export_works_stays(segal, desk, selected, tmp_path, monkeypatch):
    out, write = tmp_path / "handout", desk.write
    _export(segal, selected, out)
    monkeypatch.setattr(
        desk, "write", lambda *a: [(out / "late.png").write_bytes(b"mine"), write(*a)][1]
    )
    _refused(segal, ("got: late.png: new",), selected, "--to", "desk", "--out", out)
    assert (out / "late.png").read_bytes() == b"mine"


def _run(segal, scenes, out, *further):
    return segal(
        *("run", "--data", scenes, "--strategy", "entropy", "--region", "32"),
        *("--seed-set", "2img", "--iterations", "1", "--out", out, "data.validation=val"),
        *(f"model.architecture={_NETWORK}", "train.batch_size=2", "train.crop=32"),
        *("overlays=1", "train.workers=0", "--threads", "1", "--budgets", "3,3", *further),
    )


def test_a_run_stops_for_people_and_goes_on_with_their_labels(segal, desk, scenes, tmp_path):
    out, truth = tmp_path / "run", scenes / "truth/train"
    for number, waiting in enumerate((2, 3, 3)):
        code, _, stderr = _run(segal, scenes, out, "--annotate")
        assert code == 0, stderr
        assert f"{waiting} regions wait for annotators" in " ".join(stderr.split())
        assert not (out / "summary.json").exists()
        handout, _, _ = _export(segal, out, tmp_path / f"handout-{number}")
        assert len(handout.tasks) == waiting
        if number == 2:
            words = ("has no regions of round 7", "with purchases: 0, 1", "got: --round 7")
            _refused(segal, words, out, "--to", "desk", "--round", "7", "--out", tmp_path / "x")
            words = ("got: 5 bought, 5 of them back", "--again")
            _refused(segal, words, out, "--to", "desk", "--round", "0", "--out", tmp_path / "x")
        answers = [painted(task, truth, _CLASSES, seconds=900.0) for task in handout.tasks]
        desk.drawn["one"], desk.drawn["rest"] = answers[:1], answers[1:]
        assert segal("import", out, "one")[0] == 0
        code, _, stderr = _run(segal, scenes, out, "--annotate")
        assert f"{waiting - 1} region" in stderr
        assert segal("import", out, "rest")[0] == 0
    code, _, stderr = _run(segal, scenes, out, "--annotate")
    assert code == 0, stderr
    assert (out / "summary.json").exists()
    history = read_history(out)
    assert [one.hours for one in history.rounds] == [0.5, 1.25, 2.0]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["cost"]["annotation_hours"] == 2.0
    costs = cost_table(gather([history]))
    assert costs.columns[-1] == "hours"
    assert [row[-1].text for row in costs.rows] == ["0.50", "1.25", "2.00"]
    with Ledger.read(out) as ledger:
        assert all(one.label is not None for one in ledger.purchases())
        assert all(one.clicks is None for one in ledger.purchases())
    # The same picks as of a simulation whose oracle knows what people drew.
    simulated = tmp_path / "simulated"
    shutil.copytree(scenes, simulated)
    shutil.copytree(scenes / "truth/train", simulated / "labels/train")
    code, _, stderr = _run(segal, simulated, tmp_path / "sim")
    assert code == 0, stderr
    for number in range(2):
        name = f"rounds/{number:03d}/selection.csv"
        assert (out / name).read_bytes() == (tmp_path / "sim" / name).read_bytes()
    assert "hours" not in cost_table(gather([read_history(tmp_path / "sim")])).columns
    # An answer that is replaced retrains what was trained on it, and buys nothing anew.
    bought = (out / "rounds/001/selection.csv").read_bytes()
    desk.drawn["other"] = [painted(handout.tasks[0], truth, ("sky", "car", "road"))]
    code, _, stderr = segal("import", out, "other", "--replace")
    assert (code, "1 answers replaced" in stderr) == (0, True), stderr
    code, _, stderr = _run(segal, scenes, out, "--annotate")
    assert code == 0, stderr
    assert "1 bought region are others since" in " ".join(stderr.split())
    assert (out / "rounds/001/selection.csv").read_bytes() == bought
    assert read_config(out / "config.yaml", [], {})["annotate"] is True


def test_a_run_is_proved_and_copied_and_goes_on_from_the_copy(
    segal, desk, scenes, selected, tmp_path
):
    handout, _, _ = _export(segal, selected, tmp_path / "handout")
    desk.drawn["all"] = [painted(t, scenes / "truth/train", _CLASSES) for t in handout.tasks]
    assert segal("import", selected, "all")[0] == 0
    assert segal("validate", selected)[0] == 0
    code, stdout, stderr = segal("backup", selected, tmp_path / "copy")
    assert (code, stdout.strip()) == (0, str(tmp_path / "copy")), stderr
    assert segal("validate", tmp_path / "copy")[0] == 0
    for path, label in _labels(scenes, selected).items():
        np.testing.assert_array_equal(_labels(scenes, tmp_path / "copy")[path], label)
    code, _, stderr = segal("import", tmp_path / "copy", "all")
    assert "8 were known" in " ".join(stderr.split())
    code, _, stderr = segal("backup", selected, tmp_path / "copy")
    assert (code, "something is there" in stderr) == (2, True)
    # What people or disks do to files is found, of every kind.
    with Ledger.read(selected) as ledger:
        answer = selected / returns_of(ledger)[0].file
    mask = next((selected / "masks").rglob("*.png"))
    manifest = next((selected / "handouts").iterdir())
    for path in (answer, mask, manifest, selected / "selection.csv"):
        data = path.read_bytes()
        path.write_bytes(data[:-1])
        code, _, stderr = segal("validate", selected)
        assert (code, path.name in stderr) == (2, True)
        code, _, stderr = segal("backup", selected, tmp_path / "other")
        assert (code, "not as the ledger says" in stderr) == (2, True)
        path.write_bytes(data)
    assert segal("validate", selected)[0] == 0
    database = sqlite3.connect(selected / "ledger.sqlite")
    with database:
        database.execute("UPDATE purchases SET pixels = pixels - 1 WHERE rank = 1")
    database.close()
    code, _, stderr = segal("validate", selected)
    assert (code, "was charged" in stderr) == (2, True)
