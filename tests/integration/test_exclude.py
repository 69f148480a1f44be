"""What is never annotated is neither offered nor measured nor charged, nor trained on."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch

from segal.candidates.table import CandidateTable
from segal.data.datasets import open_dataset
from segal.data.pool import open_pool
from segal.errors import SegalError
from segal.functional.uncertainty import entropy
from segal.jobs import train as training_job
from segal.jobs.rounds import loop as job
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run, configure_selection
from segal.runs.ledger import Ledger
from segal.scenes.synthetic import make_scenes
from tests.quick_run import quick_run

PARTLY, WHOLLY = "a/frame 0.png", "b/frame 1.png"


def bonnet(height, width):
    """A curved bonnet that covers some regions as a whole, and others in part."""
    mask = np.zeros((height, width), bool)
    mask[height // 2 :, : width // 2 + 8] = True
    for x in range(width):
        mask[height - 2 - (x * (width - x)) // 500 :, x] = True
    mask[1:5, width - 30 : width - 3] = True
    return mask


@pytest.fixture
def masks(image_folder, tmp_path):
    """A folder of masks, and what is excluded by image."""
    found = {}
    for path, make in ((PARTLY, bonnet), (WHOLLY, lambda h, w: np.ones((h, w), bool))):
        size = cv2.imread(str(image_folder / path)).shape[:2]
        found[path] = make(*size)
        file = (tmp_path / "masks" / path).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), found[path] * np.uint8(255))
    return tmp_path / "masks", found


def regions(height, width, side=32):
    for y in range(0, height, side):
        for x in range(0, width, side):
            yield x, y, min(x + side, width), min(y + side, height)


def test_a_selection_by_brute_force(segal, model, image_folder, checkpoint, masks, tmp_path):
    folder, excluded = masks
    call = (
        "select", "--images", image_folder, "--checkpoint", checkpoint, "--region", 32,
        "--strategy", "entropy", "--exclude", folder, "machine.batch_size=4", "--overlays", 1,
    )  # fmt: skip
    assert segal(*call, "--budget", "9", "--out", tmp_path / "one")[0] == 0
    pool = open_pool(image_folder)
    expected, areas = {}, {}
    for i, path in enumerate(pool.paths):
        left = ~excluded.get(path, np.zeros(pool.size(i), bool))
        areas[path] = left.sum()
        with torch.inference_mode():
            batch = model.normalise(torch.from_numpy(pool.read(i))[None])
            values = entropy(model(batch).logits)[0].double().numpy()
        for box in regions(*pool.size(i)):
            x0, y0, x1, y1 = box
            part = left[y0:y1, x0:x1]
            if part.any():
                expected[path, box] = values[y0:y1, x0:x1][part].mean(), int(part.sum())
    assert WHOLLY not in {path for path, _ in expected}
    assert any(p == PARTLY and pixels < 32 * 32 for (p, _), (_, pixels) in expected.items())
    table = CandidateTable.open(tmp_path / "one" / "candidates" / "32")
    for image, box, value in zip(table.image, table.box, table.values["entropy"], strict=True):
        key = table.images[image], tuple(box.tolist())
        assert value == pytest.approx(expected[key][0] if key in expected else 0, abs=1e-6)
    with (tmp_path / "one" / "selection.csv").open() as file:
        rows = list(csv.DictReader(file))
    corners = [[int(r[key]) for key in ("x", "y", "width", "height")] for r in rows]
    boxes = [(x, y, x + width, y + height) for x, y, width, height in corners]
    picked = [(r["image"], box) for r, box in zip(rows, boxes, strict=True)]
    assert picked == sorted(expected, key=lambda key: -expected[key][0])[:9]
    assert [int(r["pixels"]) for r in rows] == [expected[key][1] for key in picked]
    # What is handed out, what is charged, and what it is a share of.
    asked = 0
    for mask in (tmp_path / "one" / "masks").rglob("*.png"):
        values = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) > 0
        name = mask.relative_to(tmp_path / "one" / "masks").as_posix()
        assert not (values & excluded.get(name, False)).any()
        asked += values.sum()
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert summary["counts"]["offered"] == len(expected)
    assert summary["cost"]["pixels"] == asked == sum(expected[key][1] for key in picked)
    assert summary["cost"]["share_of_pool"] == pytest.approx(asked / sum(areas.values()))
    with Ledger.read(tmp_path / "one") as ledger:
        assert ledger.cost().pixels == asked
        assert ledger.extent() == (sum(areas.values()), 7)
    # The rest, later: every pixel is charged once, and none that is excluded.
    code, _, stderr = segal(
        *call, "--budget", "100%", "--labelled", tmp_path / "one", "--out", tmp_path / "two"
    )
    assert code == 0, stderr
    with Ledger.read(tmp_path / "two") as ledger:
        assert ledger.cost().pixels == sum(areas.values())
        assert WHOLLY not in ledger.bought()


def test_what_is_excluded_is_no_centre(segal, image_folder, checkpoint, masks, tmp_path):
    folder, excluded = masks
    rows = ["image,x,y,width,height"]
    rows += [f"{WHOLLY},0,0,32,32", f"{PARTLY},0,48,20,20", f"{PARTLY},32,0,69,60"]
    assert excluded[PARTLY][48:68, :20].all()
    (tmp_path / "labelled.csv").write_text("\n".join(rows))
    code, _, stderr = segal(
        "select", "--images", image_folder, "--checkpoint", checkpoint, "--region", 32,
        "--strategy", "coreset", "--exclude", folder, "--budget", 3, "--overlays", 0,
        "--labelled", tmp_path / "labelled.csv", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, stderr
    labelled = CandidateTable.open(tmp_path / "out" / "candidates" / "labelled")
    assert labelled.box.tolist() == [[32, 0, 101, 60]]
    with Ledger.read(tmp_path / "out") as ledger:
        (booked,) = ledger.purchases("labelled")
    assert booked.pixels == (~excluded[PARTLY][0:60, 32:101]).sum()
    code, _, stderr = segal(
        "tune", "--scan", tmp_path / "out", "--budget", 3, "--out", tmp_path / "tuned"
    )
    assert code == 2
    assert "one of a run with exclude" in stderr


def test_plans_take_it_and_what_cannot_be_is_refused(segal, image_folder, checkpoint, masks):
    folder, _ = masks
    call = ("--images", image_folder, "--checkpoint", checkpoint, "--region", 32, "--budget", 3)
    code, stdout, _ = segal("plan", *call, "--strategy", "uwe", "--exclude", folder)
    assert code == 0
    assert "7 images" in stdout
    code, _, stderr = segal("plan", *call, "--strategy", "vaal", "--exclude", folder)
    assert code == 2
    assert "exclude: not with vaal" in stderr
    assert all(name in stderr for name in ("uwe", "mc_dropout", "learning_loss", "badge", "isal"))
    raw = {"images": "x", "budget": "1", "out": "y", "exclude": "m.png"}
    with pytest.raises(SegalError, match="exclude: not in classification"):
        configure_selection({**raw, "strategy": {"name": "random"}, "task": "classification"})


# Rounds


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, splits={"train": 8, "val": 2}, size=(64, 128), seed=0)
    for image in root.glob("leftImg8bit/*/*/*.png"):
        file = root / "masks" / image.parent.name / image.name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), bonnet(*cv2.imread(str(image)).shape[:2]) * np.uint8(1))
    return root


def test_rounds_neither_buy_nor_see_nor_evaluate_it(scenes, tmp_path, monkeypatch):
    mask, seen, train = bonnet(64, 128), [], job.train

    def spy(model, dataset, *arguments, labelled, **options):
        seen.append([dataset.read_label(i) for i in range(len(dataset))])
        return train(model, dataset, *arguments, labelled=labelled, **options)

    monkeypatch.setattr(job, "train", spy)
    raw = quick_run(
        scenes, out=str(tmp_path / "run"), exclude=str(scenes / "masks"), seed_set="9",
        seed_region="32", budgets=["20%", "4"],
    )  # fmt: skip
    history = run_rounds(*configure_run(raw)).history
    left = 8 * int((~mask).sum())
    assert history.pool_pixels == left
    assert mask[32:, :32].all()  # a region of which nothing is left
    for r, labels in zip(history.rounds, seen, strict=True):
        bought = np.zeros((8, 64, 128), bool)
        names = sorted(p.relative_to(scenes / "leftImg8bit" / "train").as_posix()
                       for p in scenes.glob("leftImg8bit/train/*/*.png"))  # fmt: skip
        before = [history.seed_set, *(h.bought for h in history.rounds[: r.number])]
        for purchase in (p for purchases in before for p in purchases):
            x0, y0, x1, y1 = purchase.box
            assert purchase.box != (0, 32, 32, 64)
            bought[names.index(purchase.image), y0:y1, x0:x1] = True
        assert r.cost.pixels == (bought & ~mask).sum()
        assert r.share == pytest.approx(r.cost.pixels / left)
        for label, own in zip(labels, bought, strict=True):
            assert (label[mask | ~own] == 255).all()
    labelled = CandidateTable.open(history.rounds[1].folder / "candidates" / "labelled")
    assert (0, 32, 32, 64) not in set(map(tuple, labelled.box.tolist()))
    assert len(labelled) == len([*history.seed_set, *history.rounds[0].bought])
    # 20 % of what is left, to less than a region.
    assert 0 <= left // 5 - sum(p.pixels for p in history.rounds[0].bought) < 32 * 32
    assert len(list((history.rounds[0].folder / "overlays").glob("*.png"))) == 1
    counted = history.rounds[0].evaluation().confusions.sum()
    val = open_dataset(scenes, "val")
    labels = [val.read_label(i) for i in range(len(val))]
    assert counted == sum((x[~bonnet(*x.shape)] != 255).sum() for x in labels)
    # Another mask is another run.
    (tmp_path / "other.csv").write_text("image,x,y,width,height\n,0,40,128,64")
    with pytest.raises(SegalError, match="holds another run") as caught:
        run_rounds(*configure_run({**raw, "exclude": str(tmp_path / "other.csv")}))
    assert "exclude: " in caught.value.got


def test_trainings_do_not_see_it_and_comparisons_take_it(segal, scenes, tmp_path, monkeypatch):
    mask, seen, train = bonnet(64, 128), [], training_job.train

    def spy(model, dataset, *arguments, **options):
        seen.extend(dataset.read_label(i) for i in range(len(dataset)))
        return train(model, dataset, *arguments, **options)

    monkeypatch.setattr(training_job, "train", spy)
    name = min(scenes.glob("leftImg8bit/train/*/*.png")).relative_to(
        scenes / "leftImg8bit" / "train"
    )
    rows = ["image,x,y,width,height", f"{name},0,32,32,32", f"{name},32,0,60,64"]
    (tmp_path / "labelled.csv").write_text("\n".join(rows))
    call = (
        "train", "--data", scenes, "--exclude", scenes / "masks", "--out", tmp_path / "out",
        "--labelled", tmp_path / "labelled.csv", "--arch", "tests.tiny_network:build",
        "train.iterations=1", "train.crop=64", "train.workers=0", "data.test=val",
    )  # fmt: skip
    code, _, stderr = segal(*call)
    assert code == 0, stderr  # a region of which nothing is left is not owed
    assert len(seen) == 1
    assert (seen[0][mask] == 255).all() and (seen[0][~mask] != 255).any()
    shared = quick_run(scenes, seed_set="1img", budgets=["4"])
    del shared["strategy"], shared["machine"]
    arms = [{"name": "random", "set": {"strategy": "random"}}]
    (tmp_path / "c.yaml").write_text(json.dumps({"run": shared, "arms": arms, "seeds": [0]}))
    compare = ("compare", "--config", tmp_path / "c.yaml", "--out", tmp_path / "compared")
    code, _, stderr = segal(*compare, "--exclude", tmp_path / "nowhere.png")
    assert code == 2
    assert "says not what is excluded" in stderr
    cv2.imwrite(str(tmp_path / "small.png"), np.ones((8, 8), np.uint8))
    with pytest.raises(SegalError, match="not of the size of"):
        raw = quick_run(scenes, out=str(tmp_path / "run"), exclude=str(tmp_path / "small.png"))
        run_rounds(*configure_run(raw))


@pytest.mark.parametrize("strategy", [{"name": "isal", "reference": "labelled"}, {"name": "ralif"}])
def test_strategies_that_measure_on_labels_take_it(scenes, tmp_path, strategy):
    raw = quick_run(
        scenes, out=str(tmp_path / "run"), exclude=str(scenes / "masks"), seed_set="9",
        seed_region="32", budgets=["20"], strategy=strategy, measure_picks=False,
        overlays=0,
    )  # fmt: skip
    history = run_rounds(*configure_run(raw)).history
    mask = bonnet(64, 128)
    picked = history.rounds[0].bought
    assert len(picked) == 20
    for p in picked:
        x0, y0, x1, y1 = p.box
        assert p.pixels == (~mask[y0:y1, x0:x1]).sum() > 0


@pytest.mark.parametrize(
    "name",
    ["uwe", "badge", "cdal", "gradnorm", "grad_similarity", "error_change_first_order", "isal",
     "ralif"],
)  # fmt: skip
def test_an_image_that_is_excluded_as_a_whole_is_measured_by_none(scenes, tmp_path, name):
    """Of which a batch has no region at all."""
    train = open_dataset(scenes, "train")
    gone = train.pool.paths[0]
    (tmp_path / "gone.csv").write_text(f"image,x,y,width,height\n{gone},0,0,128,64\n")
    raw = quick_run(
        scenes, out=str(tmp_path / "run"), exclude=str(tmp_path / "gone.csv"), seed_set="9",
        seed_region="32", budgets=["100%"], strategy={"name": name}, measure_picks=False,
        overlays=0, data={"root": str(scenes), "validation": "val"},
    )  # fmt: skip
    history = run_rounds(*configure_run(raw)).history
    bought = {p.image for p in history.rounds[0].bought}
    assert bought == {*train.pool.paths[1:]}
