"""What happens to teams that label for months: pools change, folders move, networks fail."""

import csv
import json
import os
import shutil

import cv2
import numpy as np
import pytest
import torch

from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint
from segal.runs.history import read_history
from segal.runs.ledger import Ledger
from tests.conftest import write_image

_NETWORK = "tests.tiny_network:build"
_CLASSES = ("road", "sky", "car")


@pytest.fixture(scope="module")
def saturated(tmp_path_factory):
    """A network that is sure of `road` wherever it looks."""
    torch.manual_seed(0)
    model = build_model(make_spec(_NETWORK, "resnet18", _CLASSES)).eval()
    with torch.no_grad():
        model.network[4].weight.zero_()
        model.network[4].bias.copy_(torch.tensor([1e4, 0.0, 0.0]))
    path = tmp_path_factory.mktemp("saturated") / "model.safetensors"
    save_checkpoint(model, path)
    return path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Six images, of which the third has a twin, and cars in the last two only."""
    root = tmp_path_factory.mktemp("scenes")
    (root / "classes.txt").write_text("\n".join(_CLASSES) + "\n")
    for split, count in (("train", 6), ("val", 2)):
        for i in range(count):
            write_image(root / "images" / split / f"im{i}.png", 64, 64, seed=10 * count + i)
            label = np.random.default_rng(i).integers(0, 2, (4, 4), dtype=np.uint8)
            label[0] = 2 if i > 3 or split == "val" else 1
            path = root / "labels" / split / f"im{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), cv2.resize(label, (64, 64), interpolation=cv2.INTER_NEAREST))
    for kind in ("images", "labels"):
        shutil.copy(root / kind / "train" / "im2.png", root / kind / "train" / "im3.png")
    return root


def _select(segal, images, out, *further, strategy="random", budget="5"):
    return segal(
        "select", "--images", images, "--region", "32", "--budget", budget, "--overlays", "0",
        "--strategy", strategy, "--out", out, *further,
    )  # fmt: skip


def _run(segal, scenes, out, *further, seed_set="1img", budgets="4"):
    return segal(
        "run", "--data", scenes, "--strategy", "entropy", "--region", "32", "--seed-set", seed_set,
        "--budgets", budgets, "--iterations", "1", "--out", out, "data.validation=val",
        f"model.architecture={_NETWORK}", "train.batch_size=2", "train.crop=32", "overlays=0",
        "train.workers=0", "--threads", "1", *further,
    )  # fmt: skip


def _rows(selection):
    with selection.open(newline="") as file:
        return [(r["image"], r["x"], r["y"], r["width"], r["height"]) for r in csv.DictReader(file)]


# Selections after selections


def test_a_season_of_selections_buys_nothing_twice(segal, image_folder, tmp_path):
    assert _select(segal, image_folder, tmp_path / "r1")[0] == 0
    first = tmp_path / "r1" / "selection.csv"
    saved = tmp_path / "saved by a spreadsheet.csv"
    table = [line.split(",") for line in first.read_text().splitlines()]
    text = "\r\n".join(";".join(row).replace(".", ",") for row in table)
    text = text.replace(",png", ".png").replace("a/", ".\\a\\").replace("b/", "b\\")
    saved.write_bytes(text.encode("utf-16"))
    assert _select(segal, image_folder, tmp_path / "r2", "--labelled", saved)[0] == 0
    second = tmp_path / "r2" / "selection.csv"
    outcomes = set()
    for name, given in {
        "folder": [tmp_path / "r2"],
        "last": [second],
        "both": [second, first],
        "all": [tmp_path / "r1", tmp_path / "r2", saved],
    }.items():
        flags = [part for path in given for part in ("--labelled", path)]
        code, _, stderr = _select(segal, image_folder, tmp_path / name, *flags, budget="100%")
        assert code == 0, stderr
        assert ("5 more regions" in stderr.replace("\n", " ")) == (name == "last")
        outcomes.add((tmp_path / name / "selection.csv").read_bytes())
    assert len(outcomes) == 1
    rest, bought = _rows(tmp_path / "last" / "selection.csv"), _rows(first) + _rows(second)
    assert len(set(bought)) == 10
    assert not set(rest) & set(bought)
    with Ledger.read(tmp_path / "last") as ledger:
        pixels = sum(np.prod(cv2.imread(str(p)).shape[:2]) for p in image_folder.rglob("*.png"))
        assert ledger.cost().pixels == pixels


def test_a_pool_that_changed_is_refused_with_what_changed_and_goes_on_once_it_is_back(
    segal, image_folder, tmp_path
):
    out = tmp_path / "run"
    assert _select(segal, image_folder, out)[0] == 0
    before = (out / "selection.csv").read_bytes()
    image, away = image_folder / "a" / "frame 2.png", tmp_path / "away.png"
    data = image.read_bytes()
    new, moved, other = image_folder / "b/new.png", image.with_stem("moved"), tmp_path / "other.png"
    write_image(other, 64, 96, seed=99)
    changes = {
        "1 added (b/new.png)": lambda: shutil.copy(other, new),
        "1 renamed (a/frame 2.png is a/moved.png now)": lambda: image.rename(moved),
        "1 removed (a/frame 2.png)": lambda: image.rename(away),
        "1 changed (a/frame 2.png)": lambda: shutil.copy(other, image),
    }
    for said, change in changes.items():
        change()
        code, _, stderr = _select(segal, image_folder, out)
        assert code == 2
        assert said in stderr
        assert f"--labelled {out}" in stderr
        new.unlink(missing_ok=True)
        moved.unlink(missing_ok=True)
        image.write_bytes(data)
        code, _, stderr = _select(segal, image_folder, out)
        assert code == 0, stderr
        assert "nothing was done again" in stderr
    assert (out / "selection.csv").read_bytes() == before
    # As the message says: what was bought stays bought, of images that are new or renamed too.
    image.rename(moved)
    shutil.copy(other, new)
    code, _, stderr = _select(
        segal, image_folder, tmp_path / "next", "--labelled", out, budget="100%"
    )
    assert code == 0, stderr
    names = {"a/frame 2.png": "a/moved.png"}
    bought = {(names.get(row[0], row[0]), *row[1:]) for row in _rows(out / "selection.csv")}
    rest = _rows(tmp_path / "next" / "selection.csv")
    assert "b/new.png" in {row[0] for row in rest}
    assert not bought & set(rest)


def test_a_folder_that_moved_goes_on(segal, image_folder, tmp_path):
    assert _select(segal, image_folder, tmp_path / "old")[0] == 0
    (tmp_path / "deep").mkdir()
    (tmp_path / "old").rename(tmp_path / "deep" / "new")
    image_folder.rename(tmp_path / "pool")
    code, stdout, stderr = _select(segal, tmp_path / "pool", tmp_path / "deep" / "new")
    assert code == 0, stderr
    assert "nothing was done again" in stderr
    assert stdout.strip() == str(tmp_path / "deep" / "new" / "selection.csv")
    assert segal("validate", tmp_path / "deep" / "new")[0] == 0


def test_training_goes_on_without_images_that_left(segal, scenes, tmp_path):
    pool = tmp_path / "data"
    shutil.copytree(scenes, pool)
    out = tmp_path / "run"
    assert _select(segal, pool / "images" / "train", out, budget="100%")[0] == 0
    (pool / "images" / "train" / "im0.png").unlink()

    def train(*further):
        return segal(
            "train", "--data", pool, "--labelled", out, "--iterations", "1", "--crop", "32",
            "--arch", _NETWORK, "train.batch_size=2", "--threads", "1",
            "--out", tmp_path / "model", *further,
        )  # fmt: skip

    code, _, stderr = train()
    assert code == 2
    assert "im0.png" in stderr
    code, _, stderr = train("skip_missing=true")
    assert code == 0, stderr
    assert "Left out 4 labelled regions" in stderr


def test_training_finds_images_that_were_renamed(segal, scenes, tmp_path):
    pool = tmp_path / "data"
    shutil.copytree(scenes, pool)
    assert _select(segal, pool / "images" / "train", tmp_path / "run", budget="100%")[0] == 0
    for kind in ("images", "labels"):
        (pool / kind / "train" / "im0.png").rename(pool / kind / "train" / "zz.png")
    code, _, stderr = segal(
        "train", "--data", pool, "--labelled", tmp_path / "run", "--iterations", "1", "--crop",
        "32", "--arch", _NETWORK, "train.batch_size=2", "--threads", "1",
        "--out", tmp_path / "model",
    )  # fmt: skip
    assert code == 0, stderr
    assert "im0.png is zz.png now" in stderr.replace("\n", " ")
    assert "Left out" not in stderr


# Copies


def test_copies_are_counted_and_one_of_each_is_offered_where_asked(segal, scenes, tmp_path):
    images = scenes / "images" / "train"
    said = "1 image of 6 repeat others byte by byte (im3.png)"
    code, _, stderr = _select(segal, images, tmp_path / "all", budget="100%")
    assert code == 0, stderr
    assert said in stderr.replace("\n", " ")
    assert len(_rows(tmp_path / "all" / "selection.csv")) == 24
    call = (segal, images, tmp_path / "unique", "unique=true")
    code, _, stderr = _select(*call, budget="100%")
    assert code == 0, stderr
    assert {row[0] for row in _rows(tmp_path / "unique" / "selection.csv")} == {
        f"im{i}.png" for i in (0, 1, 2, 4, 5)
    }
    assert "nothing was done again" in _select(*call, budget="100%")[2]
    assert said in segal("validate", images)[1]
    assert said in segal("validate", scenes)[1]
    planned = segal("plan", "--images", images, "--region", "32", "--budget", "3",
                    "--strategy", "random", "unique=true")  # fmt: skip
    assert said in planned[1]
    assert "5 images, 20 regions on offer" in planned[1]


def test_what_is_labelled_of_a_copy_is_labelled_of_its_content(segal, scenes, tmp_path):
    file = tmp_path / "labelled.csv"
    file.write_text("image,x,y,width,height\nim3.png,0,0,32,32\nim2.png,32,32,32,32\n")
    out = tmp_path / "run"
    code, _, stderr = _select(
        segal, scenes / "images" / "train", out, "unique=true", "--labelled", file, budget="100%"
    )
    assert code == 0, stderr
    rows = _rows(out / "selection.csv")
    assert sorted(row[1:3] for row in rows if row[0] == "im2.png") == [("0", "32"), ("32", "0")]
    assert len(rows) == 18


def test_a_run_buys_one_of_each(segal, scenes, tmp_path):
    code, _, stderr = _run(
        segal, scenes, tmp_path / "run", "unique=true", "measure_picks=false", budgets="100%"
    )
    assert code == 0, stderr
    assert "one of each content is offered" in stderr.replace("\n", " ")
    history = read_history(tmp_path / "run")
    assert history.pool_images == 5
    bought = {p.image for p in [*history.seed_set, *history.rounds[0].bought]}
    assert bought == {f"im{i}.png" for i in (0, 1, 2, 4, 5)}


# Networks and scores that tell nothing apart


def test_a_list_of_images_and_links_that_lead_elsewhere_are_pools(segal, image_folder, tmp_path):
    assert _select(segal, image_folder, tmp_path / "whole", budget="100%")[0] == 0
    everything = (tmp_path / "whole" / "selection.csv").read_bytes()
    images = sorted(path.relative_to(tmp_path) for path in image_folder.rglob("*.png"))
    (tmp_path / "all.txt").write_text("\n".join(map(str, images)))
    links = tmp_path / "links"
    for path in image_folder.rglob("*.png"):
        place = links / path.relative_to(image_folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path)
    code, _, stderr = _select(segal, tmp_path / "all.txt", tmp_path / "list", budget="100%")
    assert code == 0, stderr
    listed = (tmp_path / "list" / "selection.csv").read_bytes()
    prefix = f",{image_folder.relative_to(tmp_path).as_posix()}/".encode()
    assert listed.replace(prefix, b",") == everything
    code, _, stderr = _select(segal, links, tmp_path / "a", budget="100%")
    assert code == 2
    assert "--follow-links" in stderr
    code, _, stderr = _select(segal, links, tmp_path / "a", "--follow-links", budget="100%")
    assert code == 0, stderr
    assert (tmp_path / "a" / "selection.csv").read_bytes() == everything
    code, _, stderr = segal("plan", "--images", links, "--strategy", "random", "--region", 32,
                            "--budget", 2, "--follow-links")  # fmt: skip
    assert code == 0, stderr


@pytest.mark.parametrize("fit", ["skip", "prefix"])
def test_a_large_image_among_tiles_does_not_end_a_budget(segal, tmp_path, fit):
    """One image has more pixels than the budget; sixteen have few."""
    for number in range(16):
        write_image(tmp_path / "pool" / f"{number:02d}.png", 32, 32, seed=number)
    write_image(tmp_path / "pool" / "large.png", 160, 160, seed=99)
    call = ("select", "--images", tmp_path / "pool", "--region", "image", "--strategy", "random",
            "--budget", "37%", "--overlays", 0, f"budget_fit={fit}")  # fmt: skip
    counts, notes = [], []
    for seed in range(6):
        code, _, stderr = segal(*call, "--seed", seed, "--out", tmp_path / f"{seed}")
        assert code in {0, 2}, stderr
        rows = _rows(tmp_path / f"{seed}" / "selection.csv") if code == 0 else []
        counts.append(len(rows))
        notes.append(" ".join(stderr.split()))
    if fit == "skip":
        assert counts == [15] * 6
    else:
        assert min(counts) < 15  # as soon as the large one comes
        assert any("left unspent: the next pick costs more" in note for note in notes)


def test_a_data_set_is_no_folder_of_images(segal, scenes, tmp_path):
    code, _, stderr = _select(segal, scenes, tmp_path / "a")
    assert code == 2
    assert "whose labels and other splits would be taken for images" in stderr
    assert str(scenes / "images" / "train") in stderr.replace("\n", "").replace(" ", "")


def test_a_picture_in_two_splits_is_refused(segal, scenes, tmp_path):
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    image = min((root / "images" / "train").rglob("*.png"))
    copy = next((root / "images" / "val").rglob("*.png"))
    shutil.copy(image, copy)
    for call in (
        ("validate", root),
        ("train", "--data", root, "--validation", "val", "--out", tmp_path / "a",
         "train.iterations=1", f"model.architecture={_NETWORK}"),
        ("run", "--data", root, "--strategy", "random", "--seed-set", "1img", "--budgets", "1",
         "data.validation=val", "--out", tmp_path / "a", f"model.architecture={_NETWORK}"),
    ):  # fmt: skip
        code, _, stderr = segal(*call)
        assert code == 2, (call, stderr)
        said = " ".join(stderr.split())
        assert "the same pictures are in train and in val" in said
        assert f"{image.name} and " in said


@pytest.mark.parametrize("strategy", ["entropy", "uwe", "cdal", "badge"])
def test_scores_of_a_saturated_network_tie_and_that_is_said(
    segal, image_folder, saturated, tmp_path, strategy
):
    picks = []
    for name in "ab":
        code, _, stderr = _select(
            segal, image_folder, tmp_path / name, "--checkpoint", saturated, "--arch", _NETWORK,
            strategy=strategy,
        )  # fmt: skip
        assert code == 0, stderr
        notes = json.loads((tmp_path / name / "summary.json").read_text())["notes"]
        tied = "4 of 5 picks have" if strategy == "cdal" else "All 5 picks have"
        assert [note for note in notes if note.startswith(tied)]
        picks.append(_rows(tmp_path / name / "selection.csv"))
    assert picks[0] == picks[1]
    assert len(set(picks[0])) == 5


def test_scores_that_differ_are_not_said_to_tie(segal, image_folder, tmp_path):
    assert _select(segal, image_folder, tmp_path / "run", budget="100%")[0] == 0
    notes = json.loads((tmp_path / "run" / "summary.json").read_text())["notes"]
    assert not [note for note in notes if "same score" in note]


def test_equal_images_are_picked_once_each(segal, saturated, tmp_path):
    for i in range(3):
        (tmp_path / "pool").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "pool" / f"{i}.png"), np.full((64, 64, 3), 128, np.uint8))
    code, _, stderr = _select(
        segal, tmp_path / "pool", tmp_path / "run", "--checkpoint", saturated, "--arch", _NETWORK,
        strategy="coreset", budget="100%",
    )  # fmt: skip
    assert code == 0, stderr
    assert len(set(_rows(tmp_path / "run" / "selection.csv"))) == 12
    assert "same score" in stderr


def test_a_network_of_one_answer_and_classes_that_were_not_shown_are_told(
    segal, scenes, saturated, tmp_path
):
    out = tmp_path / "run"
    settings = ("checkpoint=" + str(saturated), "train.lr=1e-12", "measure_picks=false")
    code, _, stderr = _run(segal, scenes, out, *settings, seed_set="1img", budgets="16%,50%")
    assert code == 0, stderr
    assert "the network answers 'road' on 100 % of the pixels" in stderr.replace("\n", " ")
    history = read_history(out)
    notes = json.loads((out / "summary.json").read_text())["notes"]
    answers = [f"Round {n}: the network answers 'road' on 100 % of the pixels of validation."
               for n in range(3)]  # fmt: skip
    assert [note for note in notes if "answers" in note] == answers
    seen = [p.image in ("im4.png", "im5.png") for p in history.seed_set]
    (shown,) = [note for note in notes if note.startswith("Classes without")]
    assert not any(seen)
    first = next(
        (r.number + 1 for r in history.rounds for p in r.bought
         if p.image in ("im4.png", "im5.png") and p.box[1] == 0), None
    )  # fmt: skip
    assert f"'car' until round {first}" in shown if first else "'car' to the end" in shown
    code, _, stderr = segal("report", out)
    assert code == 0, stderr
    html = (out / "report.html").read_text()
    assert "3 of 3 networks answer one class on more than 99.9 %" in html


def test_the_line_of_a_training_tells_of_one_answer(segal, scenes, saturated, tmp_path):
    code, _, stderr = segal(
        "train", "--data", scenes, "--checkpoint", saturated, "--iterations", "1", "--crop", "32",
        "--arch", _NETWORK, "--validation", "val", "train.batch_size=2", "train.lr=1e-12",
        "--threads", "1", "--out", tmp_path / "model",
    )  # fmt: skip
    assert code == 0, stderr
    assert "but the network answers 'road' on 100 % of the pixels" in stderr.replace("\n", " ")


# Twice, and elsewhere


def test_a_run_that_moved_and_is_started_again_is_not_done_again(
    segal, scenes, tmp_path, monkeypatch
):
    assert _run(segal, scenes, tmp_path / "run")[0] == 0
    (tmp_path / "run").rename(tmp_path / "moved")
    shutil.copytree(scenes, tmp_path / "data")
    before = read_history(tmp_path / "moved")
    with monkeypatch.context() as patch:
        patch.setattr("segal.jobs.rounds.loop.train", lambda *_, **__: pytest.fail("trained again"))
        patch.setattr("segal.scanning.scan.Scan.run", lambda *_: pytest.fail("scanned again"))
        code, stdout, stderr = _run(segal, tmp_path / "data", tmp_path / "moved")
    assert code == 0, stderr
    assert stdout.strip() == str(tmp_path / "moved")
    after = read_history(tmp_path / "moved")
    assert [r.bought for r in after.rounds] == [r.bought for r in before.rounds]
    assert segal("report", tmp_path / "moved")[0] == 0
    code, _, stderr = _select(
        segal, scenes / "images" / "train", tmp_path / "next", "--labelled", tmp_path / "moved"
    )
    assert code == 0, stderr
    bought = {(p.image, p.box) for p in [*after.seed_set, *after.rounds[0].bought]}
    with Ledger.read(tmp_path / "next") as ledger:
        assert {(p.image, p.box) for p in ledger.purchases("labelled")} == bought


def test_of_two_that_start_at_once_the_second_is_told_who_is_at_work(segal, scenes, tmp_path):
    out = tmp_path / "run"
    call = (segal, scenes / "images" / "train", out)
    with Ledger.open(out, "select", {}):
        code, _, stderr = _select(*call)
        assert code == 2
        assert f"process {os.getpid()} on " in stderr
        assert "wait until it ends" in stderr
    assert _select(*call)[0] == 0
    assert "nothing was done again" in _select(*call)[2]
    with Ledger.read(out) as ledger:
        assert len(ledger.purchases()) == 5


def test_a_run_ends_when_its_budget_buys_nothing_that_is_left(segal, tmp_path):
    root = tmp_path / "scenes"
    (root / "images").mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(_CLASSES) + "\n")
    for split, sides in (("train", (32, 32, 32, 32, 64, 64)), ("val", (32,))):
        for i, side in enumerate(sides):
            seed = i + 10 * (split == "val")
            write_image(root / "images" / split / f"im{i}.png", side, side, seed)
            path = root / "labels" / split / f"im{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((side, side), i % 3, np.uint8))
    # 9 % of the pixels buy one small image a round, and never a large one.
    budgets = ("--region", "image", "strategy.name=random", "measure_picks=false")
    code, _, stderr = _run(
        segal, root, tmp_path / "run", *budgets, seed_set="9%", budgets="9%,9%,9%,9%,9%"
    )
    assert code == 0, stderr
    flat = " ".join(stderr.split())
    assert "do not buy any of the 2 regions that are left: the run ends here" in flat
    rounds = read_history(tmp_path / "run").rounds
    assert [r.cost.pixels for r in rounds] == [1024, 2048, 3072, 4096]
