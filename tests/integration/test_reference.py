"""Sets of images that strategies measure on: what is refused, what is counted."""

import json
import shutil

import cv2
import numpy as np
import pytest

from segal.candidates.selection import Selected, write_selection
from segal.candidates.table import CandidateTable
from segal.data.datasets import open_dataset
from segal.data.pool import open_pool
from segal.errors import SegalError
from segal.jobs.reference import SelectionLabels
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run, configure_selection
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint
from segal.scanning.workbench import Bench
from segal.scenes.synthetic import make_scenes
from segal.signals.influence import labelled_pixels
from tests.quick_run import quick_run

GRADIENTS = ("error_change_first_order", "grad_similarity", "isal", "ralif")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, splits={"train": 6, "val": 2}, size=(64, 128), seed=0)
    return root


@pytest.fixture(scope="module")
def network(scenes, tmp_path_factory):
    names = open_dataset(scenes, "val").classes.names
    path = tmp_path_factory.mktemp("network") / "model.safetensors"
    save_checkpoint(build_model(make_spec("DeepLabV3Plus", "mobilenet_v2", names)).eval(), path)
    return path


@pytest.fixture
def labelled(scenes, tmp_path):
    """Two regions of the first image."""
    image = open_dataset(scenes, "train").pool.paths[0]
    boxes = [(0, 0, 32, 32), (64, 32, 96, 64)]
    path = tmp_path / "labelled.csv"
    write_selection(
        path, [Selected(i + 1, image, box, 32 * 32, 0.0) for i, box in enumerate(boxes)]
    )
    return path


@pytest.fixture
def select(segal, scenes, network, tmp_path):
    def run(strategy, *extra, out="run"):
        return segal(
            *("select", "--images", scenes / "leftImg8bit" / "train", "--checkpoint", network),
            *("--region", "32", "--budget", "5", "--strategy", strategy, "--out", tmp_path / out),
            *("--threads", "1", "--overlays", "0", *extra),
        )

    return run


@pytest.mark.parametrize("strategy", GRADIENTS)
def test_selects_with_reference_and_labels(select, scenes, labelled, tmp_path, strategy):
    labels = ("--labelled", labelled, f"training.root={scenes}", "training.split=train")
    extra = ("strategy.hessian_pixels=500",) if strategy in {"isal", "ralif"} else ()
    code, _, err = select(strategy, "--reference", scenes, *labels, *extra)
    assert code == 0, err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    reference = open_dataset(scenes, "val")
    pixels = sum(int((reference.read_label(i) != 255).sum()) for i in range(2))
    if strategy == "ralif":
        assert summary["cost"]["reference"] is None
    else:
        assert summary["cost"]["reference"] == {"images": 2, "pixels": pixels}
        assert "labels of 2 images" in " ".join(summary["notes"])
    assert code == select(strategy, "--reference", scenes, *labels, *extra)[0]  # it is done


def test_a_hessian_without_labels_is_told(select, scenes, labelled, tmp_path):
    call = ("--reference", scenes, "--labelled", labelled, "strategy.hessian_pixels=200")
    for out, extra in (
        ("none", ()),
        ("known", (f"training.root={scenes}", "training.split=train")),
    ):
        code, _, err = select("isal", *call, *extra, out=out)
        assert code == 0, err
        notes = " ".join(json.loads((tmp_path / out / "summary.json").read_text())["notes"])
        assert ("count in the Hessian" in notes) == (out == "none")


def test_isal_with_the_gradient_alone_is_the_first_order_error_change_reversed(
    select, scenes, tmp_path
):
    for strategy in ("grad_similarity", "error_change_first_order"):
        arguments = ("--reference", scenes, "strategy.layers=last")
        assert select(strategy, *arguments, out=strategy)[0] == 0
    tables = [
        CandidateTable.open(tmp_path / strategy / "candidates" / "32")
        for strategy in ("grad_similarity", "error_change_first_order")
    ]
    scores = [next(iter(table.values.values())) for table in tables]
    assert np.array_equal(*scores)
    picks = [
        (tmp_path / strategy / "selection.csv").read_text().split("\n")[1].split(",")[1:4]
        for strategy in ("grad_similarity", "error_change_first_order")
    ]
    assert picks[0] != picks[1]


def test_says_all_that_is_missing_before_any_work(select, tmp_path):
    code, _, err = select("isal")
    assert code == 2
    assert "reference: missing" in err
    assert "labelled: missing" in err
    assert "reference.root=FOLDER" in err
    code, _, err = select("isal", "strategy.reference=labelled")
    assert code == 2
    assert "training: missing" in err
    assert not (tmp_path / "run").exists()


def test_refuses_a_reference_set_that_shares_images_with_the_pool(select, scenes, tmp_path):
    root = tmp_path / "shared"
    shutil.copytree(scenes, root)
    there = root / "leftImg8bit" / "val" / "vala" / "vala_000000_000009_leftImg8bit.png"
    for kind, suffix in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        source = next((root / kind / "train").rglob(f"traina_000000_000000_{suffix}.png"))
        shutil.copy(source, root / kind / "val" / "vala" / f"vala_000000_000009_{suffix}.png")
    code, _, err = select("error_change_first_order", "--reference", root)
    assert code == 2
    assert "shares images with the pool" in err
    assert there.name in err


def test_refuses_a_reference_set_without_labels(select, scenes, tmp_path):
    root = tmp_path / "void"
    shutil.copytree(scenes, root)
    for label in (root / "gtFine" / "val").rglob("*_labelIds.png"):
        there = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(label), np.zeros_like(there))  # unlabeled
    code, _, err = select("error_change_first_order", "--reference", root)
    assert code == 2
    assert "cannot be measured on" in err
    shutil.rmtree(root / "leftImg8bit" / "val")
    code, _, err = select("error_change_first_order", "--reference", root)
    assert code == 2
    assert "val" in err


def test_refuses_a_reference_set_of_other_classes(select, scenes, tmp_path):
    names = ("road", "sky", "car")
    network = tmp_path / "few.safetensors"
    save_checkpoint(build_model(make_spec("DeepLabV3Plus", "mobilenet_v2", names)).eval(), network)
    arguments = ("--reference", scenes, "--checkpoint", network)
    code, _, err = select("error_change_first_order", *arguments)
    assert code == 2
    assert "other classes than the network's" in err


def test_refuses_labels_of_other_images_than_the_pools(select, scenes, labelled, tmp_path):
    root = tmp_path / "others"
    shutil.copytree(scenes, root)
    image = root / "leftImg8bit" / "train" / open_dataset(scenes, "train").pool.paths[0]
    cv2.imwrite(str(image), 255 - cv2.imread(str(image)))
    training = ("--labelled", labelled, f"training.root={root}", "training.split=train")
    code, _, err = select("grad_similarity", "strategy.reference=initial", *training)
    assert code == 2
    assert "other images than the pool's of the same name" in err
    assert image.name in err


def test_void_pixels_of_labels_that_are_given_are_left_out(scenes, labelled, tmp_path):
    root = tmp_path / "void"
    shutil.copytree(scenes, root)
    image = open_dataset(scenes, "train").pool.paths[0]
    label = root / "gtFine" / "train" / image.replace("_leftImg8bit", "_gtFine_labelIds")
    there = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
    there[:16, :32] = 0  # unlabeled
    cv2.imwrite(str(label), there)
    raw = {
        "images": root / "leftImg8bit" / "train", "budget": "5", "out": tmp_path / "run",
        "region": "32", "labelled": [labelled], "strategy": {"name": "ralif"},
    }  # fmt: skip
    counts = []
    for training in ({}, {"training": {"root": root, "split": "train"}}):
        config, strategy = configure_selection(raw | training)
        pool = open_pool(config.images)
        labels = SelectionLabels.open(config, strategy)
        bought = labels.labelled.boxes(pool)
        images = labels.sets(config, pool, bought, pool, {})["labelled"]
        counts.append(labelled_pixels(Bench(None, None, None, {"labelled": images})))
    void = int((open_dataset(root, "train").read_label(0)[:32, :32] == 255).sum())
    assert counts[0] == 2 * 32 * 32
    assert counts[1] <= counts[0] - void < counts[0]


def test_what_a_pass_noted_is_said_again_when_a_selection_goes_on(
    select, scenes, labelled, tmp_path
):
    arguments = ("--reference", scenes, "--labelled", labelled, "--overlays", "0")
    settings = ("strategy.hessian_pixels=50", "strategy.max_iterations=1")
    said = []
    for _ in range(2):
        code, _, err = select("isal", *arguments, *settings)
        assert code == 0, err
        summary = tmp_path / "run" / "summary.json"
        said.append([n for n in json.loads(summary.read_text())["notes"] if "after 1 it" in n])
        summary.unlink()  # as if it had been killed before the end
    assert len(said[0]) == 1
    assert said[0] == said[1]


@pytest.mark.parametrize("reference", ["val", "initial", "labelled"])
def test_rounds_measure_on_what_they_bought(scenes, tmp_path, reference):
    raw = quick_run(
        scenes,
        {"validate_every": 0},
        data={"root": str(scenes), "validation": "val"},
        seed_set="1img",
        budgets=["10%", "10%"],
        strategy={"name": "isal", "reference": reference, "hessian_pixels": 500},
        overlays=0,
        out=str(tmp_path / "run"),
    )
    outcome = run_rounds(*configure_run(raw))
    assert len(outcome.history.rounds) == 3
    assert outcome.history.rounds[0].picks["mistakes"] == pytest.approx(0.5, abs=0.5)
    counted = [note for note in outcome.notes if "reference set" in note]
    assert len(counted) == (reference == "val")
    tables = [tmp_path / "run" / "rounds" / f"00{i}" / "candidates" / "32" for i in range(2)]
    first, second = (next(iter(CandidateTable.open(t).values.values())) for t in tables)
    assert not np.array_equal(first, second)


def test_rounds_need_a_validation_split_to_measure_on(scenes, tmp_path):
    raw = {
        "data": {"root": str(scenes), "test": "val"},
        "seed_set": "1img",
        "budgets": ["10%"],
        "strategy": {"name": "isal"},
        "out": str(tmp_path / "run"),
    }
    with pytest.raises(SegalError, match=r"data\.validation: missing"):
        configure_run(raw)
