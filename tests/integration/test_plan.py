"""`segal plan`: a trial that tells what a selection would take."""

import re

import pytest

from segal.candidates import CandidateTable
from segal.data.datasets import open_dataset
from segal.data.synthetic import make_scenes
from segal.jobs.plan import plan_selection
from segal.jobs.strategies import configure_selection
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint


def test_says_what_a_selection_would_take_and_leaves_nothing(
    segal, image_folder, checkpoint, tmp_path
):
    before = sorted(tmp_path.rglob("*"))
    code, out, err = segal(
        *("plan", "--images", image_folder, "--checkpoint", checkpoint),
        *("--region", "32", "--budget", "5%", "--strategy", "uwe"),
    )
    assert code == 0, err
    first, *rest = out.strip().split("\n")
    assert first == "7 images, 60 regions on offer; the budget buys 14 of them at most"
    assert [line.split(":")[0] for line in rest] == ["time", "memory", "disk"]
    assert not re.search(r"-\d", out)
    assert sorted(tmp_path.rglob("*")) == before


def test_disk_and_memory_are_those_of_the_selection(segal, image_folder, checkpoint, tmp_path):
    raw = {
        "images": str(image_folder), "checkpoint": str(checkpoint), "region": "32", "budget": "12",
        "out": str(tmp_path / "run"), "strategy": {"name": "uwe"},
    }  # fmt: skip
    plan = plan_selection(*configure_selection(raw))
    assert segal("select", *(f"{k}={v}" for k, v in raw.items() if k != "strategy"))[0] == 0
    folder = tmp_path / "run" / "candidates"
    table = CandidateTable.open(folder / "32")
    assert plan.candidates == len(table)
    assert plan.picks == 12
    assert plan.select_bytes == table.embeddings["mean_feature"].nbytes
    taken = sum(p.stat().st_size for p in (folder / "32").glob("*.npy"))
    assert plan.disk_bytes == pytest.approx(taken, rel=0.05)


def test_counts_the_reference_set(segal, checkpoint, tmp_path):
    make_scenes(tmp_path / "data", splits={"train": 4, "val": 3}, size=(64, 128), seed=0)
    images = tmp_path / "data" / "leftImg8bit" / "train"
    call = ("plan", "--images", images, "--region", "32", "--budget", "5")
    score = ("--strategy", "error_change_first_order")
    network = tmp_path / "network.safetensors"
    names = open_dataset(tmp_path / "data", "val").classes.names
    save_checkpoint(build_model(make_spec("DeepLabV3Plus", "mobilenet_v2", names)).eval(), network)
    reference = ("--reference", f"{tmp_path / 'data'}:val")
    code, out, err = segal(*call, *score, "--checkpoint", network, *reference)
    assert code == 0, err
    assert out.startswith("4 images")
    code, _, err = segal(*call, *score, "--checkpoint", network)
    assert code == 2
    assert "reference: missing" in err


def test_refuses_what_select_refuses(segal, image_folder, tmp_path):
    code, out, err = segal("plan", "--images", image_folder, "--budget", "5")
    assert (code, out) == (2, "")
    assert "checkpoint: missing" in err
    code, _, err = segal("plan", "--images", tmp_path / "nowhere", "--budget", "5")
    assert code == 2
    assert "nowhere" in err
