"""Images in which objects are found: every command, and what is refused."""

import csv
import json
import re

import numpy as np
import pytest
import torch
import yaml

import segal as segal_package
from segal.candidates.table import CandidateTable
from segal.config import TrainConfig
from segal.errors import SegalError
from segal.jobs.planning import plan_comparison
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run
from segal.jobs.train import run_training
from segal.models.checkpoint import CheckpointOptions, load_checkpoint
from segal.runs.acquisition import SEED_SET, SELECT, derive_generator
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
    for layout in ("voc", "yolo", "coco"):
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


def metrics_of(out, number):
    path = out / "rounds" / f"{number:03d}" / "metrics.json"
    return json.loads(path.read_text())["test"]["map_50"]


def quick_run(made, **changes):
    return {
        "task": "detection", "data": {"root": str(made / "voc"), "validation": "val",
        "test": "test"}, "model": {"architecture": TINY}, "train": QUICK, "seed_set": "4img",
        "budgets": ["3img", "20%"], "strategy": {"name": "margin"}, "overlays": 1,
        "machine": {"threads": 1},
    } | changes  # fmt: skip


def test_a_run_is_paid_by_the_box_and_reported(segal, made, tmp_path):
    out = tmp_path / "run"
    config, strategy = configure_run({**quick_run(made), "out": out})
    history = run_rounds(config, strategy).history
    assert [round.cost.images for round in history.rounds] == pytest.approx([4, 7, 9], abs=0.5)
    every = open_split(made / "voc", "train")
    boxes = {path: len(o) for path, o in zip(every.pool.paths, every.objects, strict=True)}
    with Ledger.read(out) as ledger:
        bought = [purchase.image for purchase in ledger.purchases()]
    clicks = [sum(boxes[path] for path in bought[: round.cost.regions]) for round in history.rounds]
    assert [round.cost.clicks for round in history.rounds] == clicks
    metrics = json.loads((out / "rounds" / "001" / "metrics.json").read_text())
    assert set(metrics["test"]["ap"]) == set(CLASSES)
    code, _, stderr = segal("report", out, "--axis", "clicks", "--out", tmp_path / "page.html")
    assert code == 0, stderr
    worth = 1e4 * 100 * metrics_of(out, 2) / clicks[-1]
    page = (tmp_path / "page.html").read_text()
    assert "10,000 · mAP / boxes" in page and f"{worth:,.2f}" in page
    assert segal("validate", out)[0] == 0


def prefix(order, prices, limit):
    """The first of an order as far as they fit."""
    kept, spent = [], 0
    for path in order:
        spent += prices[path]
        if spent > limit:
            break
        kept.append(path)
    return kept


def test_boxes_that_a_selection_expects_are_the_sum_of_their_scores(segal, made, trained, tmp_path):
    def select(strategy, budget, *more):
        out = tmp_path / f"{strategy}-{budget}"
        call = ("select", *pool(made, trained), "--strategy", strategy, "--overlays", 0, *more)
        code, _, stderr = segal(*call, "--budget", budget, "--out", out)
        assert code == 0, stderr
        return out, [pick["image"] for pick in rows(out)], stderr

    model = load_checkpoint(trained, CheckpointOptions(architecture=TINY, task="detection"))
    every = open_split(made / "yolo", "train").pool
    expected = {}
    with torch.inference_mode():
        for index, path in enumerate(every.paths):
            image = torch.from_numpy(every.read(index))[None]
            (found,) = model.eval()(model.normalise(image)).detections
            expected[path] = sum(found.scores.double().tolist())
    _, order, _ = select("random", "100%")
    limit = round(sum(expected[path] for path in order[:5])) + 1
    out, picked, stderr = select("random", f"{limit}box")
    assert picked == prefix(order, expected, limit)
    assert 0 < len(picked) < len(order)
    total = sum(expected[path] for path in picked)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["cost"]["expected_boxes"] == pytest.approx(total, rel=1e-5)
    assert f"of about {total:.0f} boxes" in stderr
    # Tiles of an image add up to it.
    tiles, _, _ = select("uwe", f"{limit}box", "--region", 32, "strategy.class_wise=none")
    table = CandidateTable.open(tiles / "candidates" / "32")
    sums = np.bincount(table.image, table.values["expected_objects"])
    assert sums == pytest.approx([expected[path] for path in table.images], rel=1e-5)
    tune = ("tune", "--scan", tiles, "--budget", f"{limit}box", "--taus", "0,1")
    tune = (*tune, "--uncertainty", "bvsb", "--out", tmp_path / "tuned")
    code, _, stderr = segal(*tune, "--region", "32")
    assert code == 0, stderr
    code, _, stderr = segal(*tune, "--region", "64")
    assert (code, "64 was not scanned" in stderr) == (2, True)
    code, stdout, stderr = segal("plan", *pool(made, trained), "--budget", "900box")
    assert code == 0, stderr
    assert re.search(r"buys about \d+ of them, at \d+\.\d expected boxes each", stdout)


def test_a_run_buys_boxes_that_the_labels_have(made, tmp_path):
    budgets = {"seed_set": "7box", "budgets": ["6box", "7box"], "strategy": {"name": "random"}}
    budgets |= {"data": {"root": str(made / "voc"), "test": "test"}}
    budgets |= {"train": QUICK | {"iterations": 1}, "measure_picks": False, "overlays": 0}
    out = tmp_path / "run"
    config, strategy = configure_run({**quick_run(made, **budgets), "out": out})
    run_rounds(config, strategy)
    every = open_split(made / "voc", "train")
    boxes = {path: len(o) for path, o in zip(every.pool.paths, every.objects, strict=True)}
    left, carried = list(every.pool.paths), 0
    for name, number, stream, amount in (
        ("seed", 0, SEED_SET, 7), ("buy", 0, SELECT, 6), ("buy", 1, SELECT, 7)
    ):  # fmt: skip
        generator = derive_generator(config.seed, number, stream)
        order = [left[i] for i in torch.randperm(len(left), generator=generator).tolist()]
        bought = prefix(order, boxes, amount + carried)
        with Ledger.read(out) as ledger:
            booked = ledger.purchases(name, number)
        assert [(p.image, p.clicks) for p in booked] == [(path, boxes[path]) for path in bought]
        carried += amount - sum(boxes[path] for path in bought)
        left = [path for path in left if path not in bought]
    assert 0 < len(left) < len(boxes)


def test_budgets_in_boxes_are_refused_before_work_starts(segal, made, checkpoint, tmp_path):
    images = made / "yolo" / "images" / "train"
    call = ("select", "--images", images, "--budget", "9box", "--out", tmp_path / "no")
    code, _, stderr = segal(*call, "--checkpoint", checkpoint)
    assert code == 2
    assert "budget: in boxes, which nobody draws in segmentation" in stderr
    assert "or 10img" in stderr
    code, _, stderr = segal(*call, "--task", "detection", "--strategy", "random")
    assert code == 2
    assert "give --checkpoint FILE, or a budget in images" in stderr
    with pytest.raises(SegalError, match=r"(?s)budgets\.1: .*seed_set: ") as caught:
        given = quick_run(made, seed_set="9box", budgets=["1img", "2box"])
        configure_run({**given, "task": "segmentation", "out": tmp_path / "no"})
    assert "the task detection" in str(caught.value)
    config, strategy = configure_run({**quick_run(made, budgets=["1box"]), "out": tmp_path / "no"})
    every = open_split(made / "voc", "train")
    dearest = max(map(len, every.objects))
    with pytest.raises(SegalError, match=f"budgets.0: (?s:.*)at least {dearest} boxes"):
        run_rounds(config, strategy)
    assert not (tmp_path / "no").exists()


def test_arms_that_pay_by_the_box_have_the_same_budgets(made, tmp_path):
    def planned(*budgets):
        raw = {
            "run": {k: v for k, v in quick_run(made).items() if k not in {"machine", "strategy"}},
            "arms": [
                {"name": f"a{i}", "set": {"strategy": "random", "budgets": list(given)}}
                for i, given in enumerate(budgets)
            ] + [{"name": "full", "full": True}],
            "seeds": [0], "baseline": "a0", "out": str(tmp_path / "comparison"),
        }  # fmt: skip
        raw["run"] |= {"steps": "proportional", "seed_set": "100img"}
        return plan_comparison(raw)

    every = open_split(made / "voc", "train")
    total = sum(map(len, every.objects))
    plan = planned(["9box"], ["9box"])
    iterations = round(QUICK["iterations"] * (100 / len(every) + 9 / total) / (100 / len(every)))
    assert plan.arms[-1].config.train.iterations == iterations
    with pytest.raises(SegalError, match="a1: not the budgets of the other arms"):
        planned(["9box"], ["1img"])


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
    assert "explain: not of a network that finds boxes" in stderr
    assert "overlays of a selection" in stderr
    assert "Checking" not in stderr


def test_tuning_asks_for_what_a_scan_of_boxes_can_be_tuned_by(segal, made, trained, tmp_path):
    def scan(name, *options):
        code, _, stderr = segal(
            "select", *pool(made, trained), "--strategy", "uwe", "--budget", "3img", "--region",
            "32", "--overlays", 0, *options, "--out", tmp_path / name,
        )  # fmt: skip
        assert code == 0, stderr

    def tune(name, *options):
        out = tmp_path / f"{name}-tuned"
        given = ("--scan", tmp_path / name, "--budget", "5", "--uncertainty", "bvsb", "--out", out)
        code, _, stderr = segal("tune", *given, *options)
        return code, " ".join(stderr.split())

    scan("by-class")
    code, stderr = tune("by-class")
    assert code == 2 and "class by class" in stderr and "strategy.class_wise=none" in stderr
    scan("means", "strategy.class_wise=none")
    code, stderr = tune("means")
    assert code == 0, stderr
    assert (tmp_path / "means-tuned" / "tune.csv").exists()
    # A mean over boxes is not the mean of the tiles' means.
    code, stderr = tune("means", "--region", "64")
    assert code == 2 and "64 was not scanned" in stderr and "divides" not in stderr


def test_a_pool_may_be_a_split_of_a_data_set(segal, made, tmp_path):
    given = (
        "select",
        "--task",
        "detection",
        "--strategy",
        "random",
        "--budget",
        "100%",
        "--overlays",
        0,
    )
    for layout in ("voc", "coco", "yolo"):
        source, out = f"{made / layout}:train", tmp_path / layout
        code, _, stderr = segal(*given, "--images", source, "--out", out)
        assert code == 0, stderr
        assert sorted(p["image"] for p in rows(out)) == [f"{i:02d}.png" for i in range(12)]
    code, _, stderr = segal(*given, "--images", f"{made / 'voc'}:no", "--out", tmp_path / "no")
    assert code == 2 and "test, train, val" in stderr


def test_label_files_by_pixel_have_no_meaning(segal, made, tmp_path):
    code, _, stderr = segal(
        "train", "--task", "detection", "--data", made / "voc", "--arch", TINY,
        "--out", tmp_path / "no", "data.ignore_index=255",
    )  # fmt: skip
    assert code == 2
    assert "where labels are boxes" in stderr


def test_a_data_set_of_coco_is_judged_as_coco_is(segal, made, trained, tmp_path):
    scores = {}
    for layout in ("coco", "voc"):
        code, _, stderr = segal(
            "train", "--task", "detection", "--data", made / layout, "--checkpoint", trained,
            "--arch", TINY, "--test", "test", "--out", tmp_path / layout,
            *(f"train.{key}={value}" for key, value in QUICK.items()),
        )  # fmt: skip
        assert code == 0, stderr
        metrics = json.loads((tmp_path / layout / "metrics.json").read_text())["test"]
        scores[layout] = metrics["map_50"], metrics["map_50_95"], metrics["metric"]
        assert bool(re.search(r"\bAP on test", stderr)) == (layout == "coco")
    assert scores["coco"] == (*scores["voc"][:2], "map_50_95")
    assert scores["voc"][2] == "map_50"


def test_a_checkpoint_of_another_task_is_refused(segal, made, checkpoint, tmp_path):
    given = pool(made, checkpoint)
    code, _, stderr = segal("select", *given, "--budget", "1img", "--out", tmp_path / "no")
    assert code == 2
    assert "of another task" in stderr
    assert SIZE == (64, 96)


# Functions


def find_bright(batch):
    """Boxes around the corners that are brightest, and nothing where none is bright."""
    image = batch[0].mean(0)
    bright = [
        (x, y) for y in range(0, image.shape[0] - 15, 16) for x in range(0, image.shape[1] - 15, 16)
        if image[y : y + 16, x : x + 16].mean() > 0.55
    ]  # fmt: skip
    boxes = torch.tensor([[x, y, x + 16, y + 16] for x, y in bright]).reshape(-1, 4).float()
    odd = torch.tensor([0.5 + 0.001 * (x + y) for x, y in bright]).reshape(-1)
    order = odd.argsort(descending=True, stable=True)
    probabilities = torch.stack([odd, 1 - odd, torch.full_like(odd, 0.1)], 1)
    return [{"boxes": boxes[order], "probabilities": probabilities[order]}]


def test_a_function_is_a_detector(made, tmp_path):
    given = {
        "images": made / "yolo" / "images" / "train", "task": "detection", "budget": "3img",
        "overlays": 1, "class_names": CLASSES,
    }  # fmt: skip
    picks = {}
    for name in ("entropy", "localization_stability"):
        found = segal_package.select(
            **given, predict=find_bright, strategy=name, name="bright", out=tmp_path / name
        )
        picks[name] = [pick.image for pick in found.picks]
        assert len(picks[name]) == 3
    # One that finds nothing in noise is told from no other, so its folder is not taken for done.
    for number in range(2):
        call = {**given, "predict": find_bright, "strategy": "entropy", "out": tmp_path / "quiet"}
        if number == 0:
            found = segal_package.select(**call)
            assert [pick.image for pick in found.picks] == picks["entropy"]
        else:
            with pytest.raises(SegalError):
                segal_package.select(**call)
    again = segal_package.select(
        **given, predict=find_bright, strategy="entropy", name="bright", out=tmp_path / "entropy"
    )
    assert [pick.image for pick in again.picks] == picks["entropy"]
