"""Images in which objects are found: every command, and what is refused."""

import csv
import json

import numpy as np
import pytest
import yaml

from segal.config import TrainConfig
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run
from segal.jobs.train import run_training
from segal.runs.ledger import Ledger
from segal.tasks.detection.datasets import open_split
from tests.boxed import CLASSES, COUNTS, SIZE, make_set

TINY = "tests.tiny_detectors:small_ssd"
QUICK = {
    "iterations": 4, "batch_size": 4, "workers": 0, "validate_every": 0, "crop": "image",
    "lr": 0.002, "grad_clip": 1.0, "colour_jitter": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data of two layouts; only read."""
    root = tmp_path_factory.mktemp("boxed")
    for layout in ("voc", "yolo"):
        make_set(root / layout, layout)
    return root


@pytest.fixture(scope="module")
def trained(made, tmp_path_factory):
    """A detector that was trained a little."""
    out = tmp_path_factory.mktemp("trained") / "net"
    raw = {
        "task": "detection", "data": {"root": made / "voc"}, "train": QUICK, "out": out,
        "machine": {"threads": 1}, "model": {"architecture": TINY},
    }  # fmt: skip
    return run_training(TrainConfig.model_validate(raw)).model


def pool(made, trained):
    return (
        "--task",
        "detection",
        "--images",
        made / "yolo" / "images" / "train",
        "--checkpoint",
        trained,
        "--arch",
        TINY,
    )


def rows(out):
    with (out / "selection.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("layout", ["voc", "yolo"])
def test_validate_counts_objects(segal, made, layout):
    code, stdout, stderr = segal("validate", made / layout)
    assert code == 0, stderr
    assert "data set of detection" in stdout
    assert f"train: {COUNTS['train']} images" in stdout
    every = open_split(made / layout, "train")
    counts = np.bincount(np.concatenate([o.classes for o in every.objects]), minlength=3)
    for name, count in zip(CLASSES, counts.tolist(), strict=True):
        assert f"    {name:<8}  {count:>15,} objects" in stdout
    assert "pixel" not in stdout


def test_what_is_selected_can_be_trained_on_and_selected_from_again(segal, made, trained, tmp_path):
    out = tmp_path / "picked"
    call = ("select", *pool(made, trained), "--budget", "4img", "--out", out, "--overlays", 2)
    code, _, stderr = segal(*call, "--strategy", "uwe", "strategy.uncertainty=bvsb")
    assert code == 0, stderr
    picked = rows(out)
    assert len(picked) == 4
    assert len(list((out / "overlays").iterdir())) == 2
    more = ("--labelled", out, "--strategy", "coreset", "--budget", "20%", "--out", tmp_path / "b")
    code, _, stderr = segal("select", *pool(made, trained), *more)
    assert code == 0, stderr
    assert not {p["image"] for p in rows(tmp_path / "b")} & {p["image"] for p in picked}
    code, _, stderr = segal(
        "train", "--task", "detection", "--data", made / "yolo", "--checkpoint", trained,
        "--arch", TINY, "--labelled", out, "--test", "test", "--out", tmp_path / "again",
        *(f"train.{key}={value}" for key, value in QUICK.items()),
    )  # fmt: skip
    assert code == 0, stderr
    assert "mAP on test" in stderr


def test_tiles_of_images_are_bought_and_trained_on(segal, made, trained, tmp_path):
    out = tmp_path / "tiles"
    call = ("select", *pool(made, trained), "--region", 48, "--strategy", "entropy")
    code, _, stderr = segal(*call, "--budget", 6, "--out", out)
    assert code == 0, stderr
    picked = rows(out)
    assert len(picked) == 6
    assert {(p["width"], p["height"]) for p in picked} <= {("48", "48"), ("48", "16")}
    code, _, stderr = segal(
        "train", "--task", "detection", "--data", made / "yolo", "--checkpoint", trained,
        "--arch", TINY, "--labelled", out, "--out", tmp_path / "again",
        *(f"train.{key}={value}" for key, value in QUICK.items()),
    )  # fmt: skip
    assert code == 0, stderr


def test_batches_and_workers_do_not_change_what_is_picked(segal, made, trained, tmp_path):
    found = set()
    for batch, workers in ((1, 0), (5, 2)):
        out = tmp_path / f"{batch}"
        call = ("select", *pool(made, trained), "--strategy", "cdal", "--budget", "5img")
        machine = (f"machine.batch_size={batch}", f"machine.workers={workers}")
        code, _, stderr = segal(*call, "--out", out, "--overlays", 0, *machine)
        assert code == 0, stderr
        found.add((out / "selection.csv").read_bytes())
    assert len(found) == 1


def quick_run(made, **changes):
    return {
        "task": "detection", "data": {"root": str(made / "voc"), "validation": "val",
        "test": "test"}, "model": {"architecture": TINY}, "train": QUICK, "seed_set": "4img",
        "budgets": ["3img", "20%"], "strategy": {"name": "margin"}, "overlays": 1,
        "machine": {"threads": 1},
    } | changes  # fmt: skip


def test_a_run_counts_clicks_by_boxes_and_is_reported(segal, made, tmp_path):
    out = tmp_path / "run"
    config, strategy = configure_run({**quick_run(made), "out": out})
    history = run_rounds(config, strategy).history
    assert [round.cost.images for round in history.rounds] == pytest.approx([4, 7, 9], abs=0.5)
    every = open_split(made / "voc", "train")
    boxes = {path: len(o) for path, o in zip(every.pool.paths, every.objects, strict=True)}
    with Ledger.read(out) as ledger:
        bought = [purchase.image for purchase in ledger.purchases()]
    clicks = [
        sum(max(1, 3 * boxes[path]) for path in bought[: round.cost.regions])
        for round in history.rounds
    ]
    assert [round.cost.clicks for round in history.rounds] == clicks
    metrics = json.loads((out / "rounds" / "001" / "metrics.json").read_text())
    assert set(metrics["test"]["ap"]) == set(CLASSES)
    for extra in ((), ("--axis", "clicks")):
        code, _, stderr = segal("report", out, *extra, "--out", tmp_path / "page.html")
        assert code == 0, stderr
    assert segal("validate", out)[0] == 0


@pytest.mark.slow
def test_compare(segal, made, tmp_path):
    raw = {
        "run": {k: v for k, v in quick_run(made).items() if k not in {"machine", "strategy"}},
        "arms": [
            {"name": name, "set": {"strategy": {"name": name}}} for name in ("random", "entropy")
        ],
        "seeds": [0, 1], "permutations": 100, "machine": {"threads": 1},
        "out": str(tmp_path / "comparison"),
    }  # fmt: skip
    raw["run"]["budgets"] = ["3img"]
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(raw))
    code, _, stderr = segal("compare", "--config", tmp_path / "compare.yaml")
    assert code == 0, stderr
    (table,) = (tmp_path / "comparison" / "tables").glob("*-picks.csv")
    with table.open(newline="") as file:
        assert all(0 <= float(row["mistakes"]) <= 1 for row in csv.DictReader(file))


def test_explain_is_refused_before_work_starts(segal, made, trained, tmp_path):
    code, _, stderr = segal(
        "explain", *pool(made, trained), "--reference", f"{made / 'voc'}:val",
        "--out", tmp_path / "explained",
    )  # fmt: skip
    assert code == 2
    assert "a detector's last layers are not one" in stderr


def test_label_files_by_pixel_have_no_meaning(segal, made, tmp_path):
    code, _, stderr = segal(
        "train", "--task", "detection", "--data", made / "voc", "--arch", TINY,
        "--out", tmp_path / "no", "data.ignore_index=255",
    )  # fmt: skip
    assert code == 2
    assert "where labels are boxes" in stderr


def test_a_checkpoint_of_another_task_is_refused(segal, made, checkpoint, tmp_path):
    given = pool(made, checkpoint)
    code, _, stderr = segal("select", *given, "--budget", "1img", "--out", tmp_path / "no")
    assert code == 2
    assert "of another task" in stderr
    assert SIZE == (64, 96)
