"""The main job through the command line."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from segal.candidates.table import CandidateTable
from segal.runs.ledger import Ledger
from segal.scenes.synthetic import make_scenes


def arguments(image_folder, checkpoint, out, **options):
    given = {
        "images": image_folder,
        "checkpoint": checkpoint,
        "region": "32",
        "budget": "12",
        "strategy": "uwe",
        "out": out,
        **options,
    }
    flags = [part for k, v in given.items() if v is not None for part in (f"--{k}", str(v))]
    return ["select", *flags]


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def outputs(out):
    """Bytes of what must not depend on how the work was done."""
    files = [out / "selection.csv", *sorted((out / "masks").rglob("*.png"))]
    return {str(f.relative_to(out)): f.read_bytes() for f in files}


@pytest.mark.parametrize(
    ("strategy", "extra"),
    [
        ("random", []),
        ("entropy", ["strategy.reduction=max"]),
        pytest.param("least_confidence", [], marks=pytest.mark.slow),
        pytest.param("margin", [], marks=pytest.mark.slow),
        pytest.param("bvsb", [], marks=pytest.mark.slow),
        ("coreset", []),
        ("uwe", ["--tau", "0.1"]),
    ],
)
def test_writes_everything_and_it_agrees(
    segal, image_folder, checkpoint, tmp_path, strategy, extra
):
    out = tmp_path / "run"
    code, stdout, stderr = segal(
        *arguments(image_folder, checkpoint, out, strategy=strategy), *extra
    )
    assert code == 0, stderr
    assert stdout.strip() == str(out / "selection.csv")
    rows = read_csv(out / "selection.csv")
    assert list(rows[0]) == ["rank", "image", "x", "y", "width", "height", "pixels", "score"]
    assert [int(row["rank"]) for row in rows] == list(range(1, 13))
    expected = {}
    for row in rows:
        image = cv2.imread(str(image_folder / row["image"]))
        mask = expected.setdefault(row["image"], np.zeros(image.shape[:2], np.uint8))
        x, y, w, h = (int(row[k]) for k in ("x", "y", "width", "height"))
        assert x % 32 == 0
        assert y % 32 == 0
        assert mask[y : y + h, x : x + w].shape == (h, w)
        assert int(row["pixels"]) == w * h
        assert not mask[y : y + h, x : x + w].any()
        mask[y : y + h, x : x + w] = 255
    masks = {str(p.relative_to(out / "masks")): p for p in (out / "masks").rglob("*.png")}
    assert set(masks) == set(expected)
    for name, mask in expected.items():
        written = cv2.imread(str(masks[name]), cv2.IMREAD_UNCHANGED)
        assert written.dtype == np.uint8
        assert np.array_equal(written, mask)
    overlays = list((out / "overlays").glob("*.png"))
    assert len(overlays) == len(expected)
    assert all(cv2.imread(str(p)).shape[1] > 600 for p in overlays)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["configuration"]["strategy"]["name"] == strategy
    assert summary["counts"]["picks"] == 12
    assert summary["cost"]["pixels"] == sum(int(row["pixels"]) for row in rows)
    assert summary["seconds"]
    assert {phase: set(of) for phase, of in summary["waited_for_images"].items()} == {
        "scan-0": {"seconds", "share"}
    }
    assert summary["peak_memory_bytes"]["host"] > 0
    with Ledger.read(out) as ledger:
        assert [p.image for p in ledger.purchases("select")] == [row["image"] for row in rows]
        assert ledger.cost().pixels == summary["cost"]["pixels"]


def test_same_seed_same_bytes_whatever_the_machine(segal, image_folder, checkpoint, tmp_path):
    for name, extra in {
        "a": [],
        "b": ["--workers", 3, "--overlays", 0],
        "c": ["--workers", 0],
        "d": ["--batch-size", 3],
    }.items():
        code, _, stderr = segal(*arguments(image_folder, checkpoint, tmp_path / name), *extra)
        assert code == 0, stderr
    first = outputs(tmp_path / "a")
    assert len(first) > 1
    assert outputs(tmp_path / "b") == first
    assert outputs(tmp_path / "c") == first
    # Batches round differently in the last digits of the scores; the picks are the same.
    assert {k: v for k, v in outputs(tmp_path / "d").items() if k != "selection.csv"} == {
        k: v for k, v in first.items() if k != "selection.csv"
    }
    for one, other in zip(
        read_csv(tmp_path / "a" / "selection.csv"),
        read_csv(tmp_path / "d" / "selection.csv"),
        strict=True,
    ):
        assert float(one.pop("score")) == pytest.approx(float(other.pop("score")), rel=1e-4)
        assert one == other


def test_another_seed_draws_others(segal, image_folder, tmp_path):
    for seed in (0, 1):
        call = arguments(image_folder, None, tmp_path / str(seed), strategy="random", seed=seed)
        assert segal(*call)[0] == 0
    assert outputs(tmp_path / "0") != outputs(tmp_path / "1")


@pytest.mark.slow
def test_uwe_twice_gives_the_same_bytes(segal, image_folder, checkpoint, tmp_path):
    for name in "ab":
        assert segal(*arguments(image_folder, checkpoint, tmp_path / name))[0] == 0
    assert outputs(tmp_path / "a") == outputs(tmp_path / "b")


def test_a_run_that_is_done_is_not_done_again(
    segal, image_folder, checkpoint, tmp_path, monkeypatch
):
    call = arguments(image_folder, checkpoint, tmp_path / "run")
    assert segal(*call)[0] == 0
    before = outputs(tmp_path / "run")
    monkeypatch.setattr("segal.scanning.scan.Scan.run", lambda *_: pytest.fail("scanned again"))
    code, stdout, stderr = segal(*call)
    assert code == 0
    assert "nothing was done again" in stderr
    assert stdout.strip().endswith("selection.csv")
    assert outputs(tmp_path / "run") == before


def test_keys_that_came_later_count_only_where_they_are_given(
    segal, image_folder, checkpoint, tmp_path
):
    assert segal(*arguments(image_folder, checkpoint, tmp_path / "run"))[0] == 0
    with Ledger.read(tmp_path / "run") as ledger:
        made = ledger.configuration
    assert made.keys() == {
        *(
            "budget",
            "budget_fit",
            "checkpoint",
            "embedding_dtype",
            "extra_regions",
            "labelled",
            "model",
        ),
        *("precision", "region", "seed", "skip_unreadable", "strategy", "value_range"),
    }
    assert made["model"].keys() == {
        *("architecture", "encoder", "input_scale", "insert_dropout", "mean", "num_classes"),
        "std",
    }


@pytest.mark.parametrize(
    "lost",
    [
        "masks",
        "candidates",
        pytest.param("selection.csv", marks=pytest.mark.slow),
        pytest.param("summary.json", marks=pytest.mark.slow),
    ],
)
def test_a_lost_artefact_is_made_again_as_it_was(
    segal, image_folder, checkpoint, tmp_path, lost, monkeypatch
):
    call = arguments(image_folder, checkpoint, tmp_path / "run")
    assert segal(*call)[0] == 0
    before = outputs(tmp_path / "run")
    path = tmp_path / "run" / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_text("spoilt")
    # What was bought is not chosen again, even where it would come out otherwise.
    monkeypatch.setattr("segal.jobs.select.acquire", lambda *_: pytest.fail("chosen again"))
    code, _, stderr = segal(*call)
    assert code == 0
    assert "is done again" in stderr
    assert outputs(tmp_path / "run") == before
    assert segal("validate", tmp_path / "run")[0] == 0


def test_what_is_labelled_is_never_offered_nor_charged(segal, image_folder, checkpoint, tmp_path):
    # Labelled at 48 pixels: no 32-pixel region equals one, many are bought in part.
    assert (
        segal(*arguments(image_folder, None, tmp_path / "a", strategy="random", region="48"))[0]
        == 0
    )
    labelled = tmp_path / "a" / "selection.csv"
    code, _, stderr = segal(
        *arguments(image_folder, checkpoint, tmp_path / "b", labelled=labelled, budget="40%")
    )
    assert code == 0, stderr
    bought = {}
    for row in read_csv(labelled):
        shape = cv2.imread(str(image_folder / row["image"])).shape[:2]
        mask = bought.setdefault(row["image"], np.zeros(shape, bool))
        x, y, w, h = (int(row[k]) for k in ("x", "y", "width", "height"))
        mask[y : y + h, x : x + w] = True
    parts = 0
    for row in read_csv(tmp_path / "b" / "selection.csv"):
        x, y, w, h = (int(row[k]) for k in ("x", "y", "width", "height"))
        before = bought.get(row["image"], np.zeros((200, 200), bool))[y : y + h, x : x + w]
        assert int(row["pixels"]) == w * h - before.sum() > 0
        parts += bool(before.any())
    assert parts > 0
    for path in (tmp_path / "b" / "masks").rglob("*.png"):
        name = str(path.relative_to(tmp_path / "b" / "masks"))
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) == 255
        assert not (mask & bought.get(name, np.zeros_like(mask))).any()
    total = sum(np.prod(cv2.imread(str(p)).shape[:2]) for p in image_folder.rglob("*.png"))
    spent = json.loads((tmp_path / "b" / "summary.json").read_text())["cost"]["pixels"]
    assert spent <= 0.4 * total


def test_a_budget_beyond_the_pool_takes_all_and_says_so(segal, image_folder, checkpoint, tmp_path):
    code, _, stderr = segal(*arguments(image_folder, checkpoint, tmp_path / "a", budget="9999"))
    assert code == 0
    assert "covers all" in stderr
    rows = read_csv(tmp_path / "a" / "selection.csv")
    assert len(rows) == len(CandidateTable.open(tmp_path / "a" / "candidates" / "32"))


def test_image_level_and_image_budgets_are_the_same_path(segal, image_folder, checkpoint, tmp_path):
    call = arguments(image_folder, checkpoint, tmp_path / "a", region="image", budget="3img")
    assert segal(*call)[0] == 0
    rows = read_csv(tmp_path / "a" / "selection.csv")
    assert all(row["x"] == row["y"] == "0" for row in rows)
    assert 2 <= len(rows) <= 4


def test_several_sizes_are_measured_in_one_pass(segal, image_folder, checkpoint, tmp_path):
    call = arguments(image_folder, checkpoint, tmp_path / "a")
    assert segal(*call, "extra_regions=16,image")[0] == 0
    folders = {p.name for p in (tmp_path / "a" / "candidates").iterdir()}
    assert folders == {"32", "16", "image", "labelled"}
    assert not list((tmp_path / "a").glob(".*.blocks"))


def test_a_configuration_file_with_overrides_equals_flags(
    segal, image_folder, checkpoint, tmp_path
):
    assert segal(*arguments(image_folder, checkpoint, tmp_path / "a", tau=0.5))[0] == 0
    config = tmp_path / "select.yaml"
    config.write_text("region: 16\nbudget: 12\nstrategy: {name: uwe, tau: 0.5}\n")
    code, _, stderr = segal(
        "select", "--config", config, f"images={image_folder}", "region=32",
        "--checkpoint", checkpoint, "--out", tmp_path / "b",
    )  # fmt: skip
    assert code == 0, stderr
    assert outputs(tmp_path / "a") == outputs(tmp_path / "b")


def test_an_unreadable_image_among_good_ones(segal, image_folder, checkpoint, tmp_path):
    (image_folder / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    call = arguments(image_folder, checkpoint, tmp_path / "run")
    code, _, stderr = segal(*call)
    assert code == 2
    assert "broken.png" in stderr
    assert "--skip-unreadable" in stderr
    code, _, stderr = segal(*call, "--skip-unreadable")  # as the message said
    assert code == 0, stderr
    assert "broken.png" in stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["counts"]["skipped"] == 1


def test_labels_of_the_pool_are_never_opened(segal, image_folder, checkpoint, tmp_path):
    """A pool in the layout of a data set, whose labels raise when anything opens them."""
    scenes = tmp_path / "scenes"
    (scenes / "images").mkdir(parents=True)
    image_folder.rename(scenes / "images" / "train")
    labels = scenes / "labels" / "train" / "a"
    labels.mkdir(parents=True)
    for path in (scenes / "images" / "train" / "a").iterdir():
        (labels / path.name).write_bytes(b"")
    opened = []
    watching = [True]

    def hook(event, args):
        inside = event in {"open", "os.listdir", "os.scandir"}
        if watching[0] and inside and str(labels.parent.parent) in str(args[0]):
            opened.append(args[0])
            raise PermissionError(f"a label was touched: {args[0]}")

    sys.addaudithook(hook)
    try:
        with pytest.raises(PermissionError):
            (labels / "frame 0.png").read_bytes()
        opened.clear()
        code, _, stderr = segal(
            *arguments(scenes / "images" / "train", checkpoint, tmp_path / "run")
        )
    finally:
        watching[0] = False
    assert code == 0, stderr
    assert opened == []


def start(call):
    return subprocess.Popen(
        [sys.executable, "-m", "segal", *map(str, call)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes_to_the_same_bytes(
    segal, image_folder, checkpoint, tmp_path
):
    assert segal(*arguments(image_folder, checkpoint, tmp_path / "whole"))[0] == 0
    expected = outputs(tmp_path / "whole")
    call = arguments(image_folder, checkpoint, tmp_path / "killed")
    for delay in np.linspace(1.0, 7.0, 12):
        process = start(call)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in (tmp_path / "killed").glob("[!.]*"):
            if path.name == "selection.csv":
                assert path.read_bytes() == expected["selection.csv"]
            if path.name == "masks":
                found = {str(p.relative_to(path.parent)) for p in path.rglob("*.png")}
                assert found == set(expected) - {"selection.csv"}
    assert start(call).wait() == 0
    assert outputs(tmp_path / "killed") == expected


def test_a_second_process_on_one_run_folder_is_refused(segal, image_folder, checkpoint, tmp_path):
    out = tmp_path / "run"
    with Ledger.open(out, "select", {}):
        holder = subprocess.run(
            [sys.executable, "-m", "segal", *map(str, arguments(image_folder, checkpoint, out))],
            capture_output=True,
            text=True,
            check=False,
        )
    assert holder.returncode == 2
    assert str(os.getpid()) in holder.stderr
    assert "Traceback" not in holder.stderr


def test_jpeg_files_decoded_at_half_their_size(segal, checkpoint, tmp_path):
    """Scores are near those of a network that sees all of the image at half its size."""
    make_scenes(tmp_path / "data", splits={"train": 3}, size=(128, 256), seed=0)
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((tmp_path / "data" / "leftImg8bit").rglob("*.png")):
        Image.open(path).save(images / f"{path.stem}.jpg", quality=95)
    call = ("select", "--images", images, "--checkpoint", checkpoint, "--region", "32")
    call += ("--budget", "12", "--strategy", "entropy", "--overlays", "1")

    def scores(name, *more):
        out = tmp_path / name
        code, _, err = segal(*call, "--out", out, *more)
        assert code == 0, err
        table = CandidateTable.open(out / "candidates" / "32")
        assert table.box.max(0).tolist() == [224, 96, 256, 128]
        return table.values["entropy"]

    whole = scores("whole", "--input-scale", "0.5")
    reduced = scores("reduced", "--input-scale", "0.5", "reducing_gap=1")
    assert not np.array_equal(whole, reduced)
    assert np.abs(whole - reduced).max() < 0.02 * whole.mean()
    code, _, err = segal(*call, "--input-scale", "0.5", "--out", tmp_path / "reduced")
    assert code == 2
    assert "reducing_gap" in err
    code, _, err = segal(*call, "reducing_gap=1", "--out", tmp_path / "scale")
    assert code == 2
    assert "at 1/2 of their size, or less" in err
    store = f"store.folder={tmp_path / 'store'}"
    code, _, err = segal(*call, "reducing_gap=1", store, "--out", tmp_path / "store run")
    assert code == 2
    assert "reducing_gap" in err


def test_a_pool_of_several_splits_is_told_of(segal, checkpoint, tmp_path):
    make_scenes(tmp_path / "data", splits={"train": 2, "val": 1}, size=(64, 96), seed=0)
    images = tmp_path / "data" / "leftImg8bit"
    call = ("select", "--checkpoint", checkpoint, "--region", 32, "--budget", 2, "--overlays", 0,
            "--strategy", "entropy")  # fmt: skip
    said = "images of the splits train, val"
    for folder, told in ((images, True), (images / "train", False)):
        out = tmp_path / f"run {told}"
        code, _, stderr = segal(*call, "--images", folder, "--out", out)
        assert code == 0, stderr
        assert (said in stderr) == told
        assert (said in (out / "summary.json").read_text()) == told
