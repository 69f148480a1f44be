"""`segal plan`: a trial that tells what a selection would take."""

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from segal.candidates.regions import RegionSize
from segal.candidates.selection import Selected, write_selection
from segal.candidates.table import CandidateTable
from segal.data.datasets import open_dataset
from segal.data.pool import open_pool
from segal.errors import SegalError
from segal.functional.clicks import polygon_clicks
from segal.jobs import forecast
from segal.jobs import plan as plan_job
from segal.jobs.forecast import time_choice
from segal.jobs.inputs import image_sizes
from segal.jobs.plan import Plan, plan_selection
from segal.jobs.strategies import configure_selection
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint
from segal.scenes.synthetic import make_scenes
from segal.signals import MeanFeature, Value, pixel_sample


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
    assert [line.split(":")[0] for line in rest] == [
        *("time", "memory", "disk", "cost"),
        "DeepLabV3Plus with resnet18",
    ]
    assert not re.search(r"-\d", out)
    assert sorted(tmp_path.rglob("*")) == before


def test_disk_and_memory_are_those_of_the_selection(segal, image_folder, checkpoint, tmp_path):
    raw = {
        "images": str(image_folder), "checkpoint": str(checkpoint), "region": "32", "budget": "12",
        "out": str(tmp_path / "run"), "strategy": {"name": "uwe"}, "overlays": 0,
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
    assert plan.embedding_bytes == table.embeddings["mean_feature"].nbytes
    assert plan.temporary_bytes == plan.disk_bytes
    assert (plan.choice.candidates, plan.choice.picks) == (60, 12)
    assert plan.choice.powers == (0, 0)  # all of it was tried
    half = plan_selection(*configure_selection(raw | {"embedding_dtype": "float16"}), ranks=2)
    assert half.embedding_bytes == plan.embedding_bytes / 2
    assert "by 2 ranks" in half.lines()[1]
    assert plan.lacking() == []


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
    dataset = open_dataset(tmp_path / "data", "val")
    labels = [dataset.read_label(i) for i in range(3)]
    grids = [RegionSize.parse("32").grid(*label.shape).boxes() for label in labels]
    clicks = np.concatenate([polygon_clicks(*both) for both in zip(labels, grids, strict=True)])
    (cost,) = (line for line in out.split("\n") if line.startswith("cost"))
    told = f"about {5 * np.mean(clicks):,.0f} clicks, {5 * np.mean(clicks) * 2 / 3600:.1f} h"
    assert told in cost
    assert "labels of 3 images" in cost
    code, out, _ = segal(*call, "--strategy", "random", *reference, "--click-seconds", 7200)
    assert f"{10 * np.mean(clicks):,.1f} h at 7200 s each" in out
    code, _, err = segal(*call, *score, "--checkpoint", network)
    assert code == 2
    assert "reference: missing" in err


def test_refuses_what_select_refuses(segal, image_folder, tmp_path):
    code, out, err = segal("plan", "--images", image_folder, "--budget", "5")
    assert (code, out) == (2, "")
    assert "checkpoint: missing" in err
    code, _, err = segal(
        *("plan", "--images", tmp_path / "nowhere", "--budget", "5", "--strategy", "random")
    )
    assert code == 2
    assert "nowhere" in err


def test_tries_strategies_without_a_pass_and_with_two(segal, image_folder, tmp_path):
    code, out, err = segal(
        "plan", "--images", image_folder, "--region", "32", "--budget", "5", "--strategy", "random"
    )
    assert code == 0, err
    assert out.startswith("7 images, 60 regions on offer")


@dataclass(frozen=True)
class TwoPasses:
    """Looks twice, as a prefilter does."""

    direction: ClassVar = None
    uses_reference_labels: ClassVar = False
    source: ClassVar = "a test"

    def passes(self, context):
        yield [MeanFeature()]
        yield [Value("entropy")]

    def select(self, table, labelled, count, generator):
        raise SegalError("not among candidates that are made up")


def test_two_passes_fill_the_disk_twice_and_the_choice_reads_the_last(image_folder, checkpoint):
    def plan(strategy):
        raw = {"images": str(image_folder), "checkpoint": str(checkpoint), "region": "32",
               "budget": "12", "out": "run", "strategy": {"name": "uwe"}}  # fmt: skip
        return plan_selection(configure_selection(raw)[0], strategy)

    class First(TwoPasses):
        def passes(self, context):
            yield [MeanFeature()]

    once, twice = plan(First()), plan(TwoPasses())
    assert once.select_bytes > 0
    assert twice.select_bytes == 0
    assert once.disk_bytes < twice.disk_bytes < 2 * once.disk_bytes
    assert twice.choice is None
    assert "the choice, which could not be tried" in twice.lines()[1]


def test_tries_a_set_of_which_the_first_image_has_no_pixel(image_folder, checkpoint, tmp_path):
    """Its first image is all labelled."""
    pool = open_pool(image_folder)
    height, width = pool.size(0)
    path = tmp_path / "labelled.csv"
    write_selection(path, [Selected(1, pool.paths[0], (0, 0, width, height), height * width, 0.0)])
    raw = {
        "images": str(image_folder), "checkpoint": str(checkpoint), "region": "32", "budget": "12",
        "out": "run", "labelled": [str(path)],
        "strategy": {"name": "ralif", "hessian_pixels": 50, "tau": 0.3},
    }  # fmt: skip
    plan = plan_selection(*configure_selection(raw))
    assert plan.candidates < 60


def test_tells_beforehand_that_memory_is_too_small(
    segal, image_folder, checkpoint, tmp_path, monkeypatch
):
    """For all images of the pool, where those of the trial would have fitted."""
    raw = {
        "images": str(image_folder), "checkpoint": str(checkpoint), "region": "32", "budget": "12",
        "out": "run", "strategy": {"name": "err_reduction", "pool_pixels": 0},
    }  # fmt: skip
    config, strategy = configure_selection(raw)
    free = 4_000_000
    monkeypatch.setattr(pixel_sample, "free_bytes", lambda device: free)
    with pytest.raises(SegalError, match=r"(?s)too little memory.*strategy\.pool_pixels") as caught:
        plan_selection(config, strategy)
    needed = float(re.search(r"expected: (\d+) MiB", str(caught.value))[1]) * 2**20
    assert 3 / 7 * needed < free < needed


def test_refuses_a_budget_that_buys_nothing(segal, image_folder, checkpoint):
    arguments = ("--images", image_folder, "--checkpoint", checkpoint, "--region", "image")
    code, _, err = segal("plan", *arguments, "--budget", "0.01%")
    assert code == 2
    assert "does not buy a single region" in err


def fake_plan(monkeypatch, image_folder, checkpoint, tmp_path, seconds):
    """Of a selection whose clock is that of a formula: (before, during) by images and set."""
    make_scenes(tmp_path / "data", splits={"val": 20}, size=(64, 128), seed=0)
    names = open_dataset(tmp_path / "data", "val").classes.names
    network = tmp_path / "network.safetensors"
    save_checkpoint(build_model(make_spec("DeepLabV3Plus", "mobilenet_v2", names)).eval(), network)
    raw = {
        "images": str(image_folder), "checkpoint": str(network), "region": "32", "budget": "12",
        "out": "run", "strategy": {"name": "error_change_first_order"},
        "reference": {"root": str(tmp_path / "data"), "split": "val"},
    }  # fmt: skip
    config, strategy = configure_selection(raw)
    scan = plan_job._Trial._scan

    def timed(self, pool, sets, signals, folder):
        scan(self, pool, sets, signals, folder)
        return seconds(len(pool), len(sets["val"].indices()))

    monkeypatch.setattr(plan_job._Trial, "_scan", timed)
    return plan_selection(config, strategy)


@pytest.mark.parametrize("pair", [0.0, 0.5])
def test_time_grows_as_that_of_the_trials(monkeypatch, image_folder, checkpoint, tmp_path, pair):
    plan = fake_plan(
        *(monkeypatch, image_folder, checkpoint, tmp_path),
        lambda n, m: (0.2 + 0.1 * m, n * (0.3 + pair * m)),
    )
    areas = [h * w for h, w in image_sizes(open_pool(image_folder)).values()]
    share = 3 * sum(areas) / sum(areas[:3])
    assert plan.prepare_seconds == pytest.approx(0.2 + 0.1 * 20)
    assert plan.scan_seconds == pytest.approx(share * (0.3 + pair * 20))


def test_noise_of_trials_does_not_grow_with_the_set(
    monkeypatch, image_folder, checkpoint, tmp_path
):
    noise = {(1, 1): 0.0, (3, 1): 0.05, (1, 12): 0.06}
    plan = fake_plan(
        *(monkeypatch, image_folder, checkpoint, tmp_path),
        lambda n, m: (0.0, 0.3 * n + noise[n, m]),
    )
    assert plan.scan_seconds < 0.4 * 7 * 2


class Clock:
    """Time that passes where it is told to."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.mark.parametrize(
    ("cost", "powers"),
    [
        (lambda n, k: 1e-3, (1, 0)),
        (lambda n, k: 2e-6 * n, (1, 0)),
        (lambda n, k: 1e-8 * n * k, (1, 1)),
        (lambda n, k: 1e-8 * n * n, (2, 0)),
        (lambda n, k: 1e-9 * n * n + 1e-6 * n * k, (1, 1)),
    ],
)
def test_the_choice_takes_what_trials_of_a_half_tell(monkeypatch, cost, powers):
    clock, asked = Clock(), []
    monkeypatch.setattr(forecast, "time", clock)

    class Timed:
        def select(self, table, labelled, count, generator):
            assert len(set(table.images)) == len(table.images)
            assert len(np.unique(table.embeddings["f"], axis=0)) == len(table)
            asked.append((len(table), count))
            clock.now += cost(len(table), count)

    rng = np.random.default_rng(0)
    few = CandidateTable(
        images=("a", "b"),
        image=np.array([0, 0, 1], np.int32),
        box=np.tile(np.array([0, 0, 8, 8], np.int32), (3, 1)),
        pixels=np.full(3, 64),
        values={"v": rng.random(3)},
        embeddings={"f": rng.standard_normal((3, 4)).astype(np.float32)},
    )
    found = time_choice(Timed(), few, few.view(np.arange(0), np.arange(0)), 1_000_000, 20_000)
    n, k = found.candidates, found.picks
    assert k == max(32, n // 50)
    assert found.powers == powers
    scaled = cost(n, k) * (1_000_000 / n) ** powers[0] * (20_000 / k) ** powers[1]
    assert found.seconds == pytest.approx(scaled)
    assert cost(n, k) >= 0.3 or n == 200_000
    assert max(asked) == (n, k)


def small_plan(**more):
    numbers = {"images": 1, "candidates": 9, "picks": 2, "prepare_seconds": 0.0,
               "scan_seconds": 1.0, "disk_bytes": 6 * 10**12, "embedding_bytes": 5 * 10**12,
               "temporary_bytes": 6 * 10**12, "scan_bytes": 3 * 10**9,
               "select_bytes": 10**9}  # fmt: skip
    return Plan(**(numbers | more))


def test_what_will_not_fit_is_said():
    fits = {"free_disk": 12 * 10**12, "free_memory": 4 * 10**9}
    assert small_plan(**fits).lacking() == []
    (disk,) = small_plan(**fits | {"free_disk": 10**12}).lacking()
    assert disk.startswith("DOES NOT FIT: 12.0 TB of disk")
    assert "1.0 TB are free" in disk
    (memory,) = small_plan(**fits | {"free_memory": 10**9}).lacking()
    assert memory.startswith("DOES NOT FIT: 4.0 GB of memory")
    (ranks,) = small_plan(**fits | {"free_memory": 13 * 10**9}, ranks=4).lacking()
    assert ranks.endswith("where there are 13.0 GB: 3 at most.")
    assert small_plan(**fits | {"free_memory": 16 * 10**9}, ranks=4).lacking() == []


def test_free_disk_is_that_of_the_folder_to_come(tmp_path):
    assert forecast.free_disk(tmp_path / "not" / "there") == pytest.approx(
        forecast.free_disk(tmp_path), rel=0.05
    )
    assert forecast.free_memory() > 10**8


def test_a_store_that_will_not_fit_is_said():
    fits = {"free_disk": 10**14, "store_bytes": 8 * 10**12, "store_limit": 10**14}
    assert small_plan(**fits, free_store=8 * 10**12).lacking() == []
    (store,) = small_plan(**fits, free_store=10**12).lacking()
    assert store.startswith("DOES NOT FIT: 8.0 TB in the store, where 1.0 TB are free")
    assert small_plan(**fits | {"store_limit": 10**12}, free_store=10**12).lacking() == []
