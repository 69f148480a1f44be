"""A run that is killed at any instant ends with the bytes of one that was not."""

import multiprocessing
import random
import shutil
import signal
import time

import pytest

from segal.runs.ledger import Ledger
from segal.scenes.synthetic import make_scenes
from tests import killed_run
from tests.quick_run import quick_run

PHASES = 15
RANDOM_MOMENTS = 30
FILES = ("selection.csv", "picks.json", "model.safetensors", "evaluation.npz")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killed_run"])
    return context


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, splits={"train": 8, "val": 3}, size=(64, 128), seed=0)
    train = {"iterations": 6, "workers": 1, "checkpoint_every": 2}
    return quick_run(root, train, start="warm", budgets=["10%", "6"])


@pytest.fixture(scope="module")
def whole(processes, base, tmp_path_factory):
    """A run that nothing happens to, and how long it took."""
    # The first process of all waits for the imports.
    assert start(processes, base, tmp_path_factory.mktemp("first") / "run") == 0
    folder = tmp_path_factory.mktemp("whole") / "run"
    started = time.perf_counter()
    assert start(processes, base, folder) == 0
    seconds = time.perf_counter() - started
    return decided(folder), seconds


def start(processes, base, folder, *point, kill_after=None):
    """The exit code of a run in a process of its own."""
    raw = {**base, "out": str(folder)}
    process = processes.Process(target=killed_run.run, args=(raw, *point))
    process.start()
    process.join(kill_after)
    if kill_after is not None:
        process.kill()
    process.join()
    return process.exitcode


def decided(folder):
    """What a run decides: purchases, and the bytes of picks and networks."""
    paths = [p for p in sorted(folder.glob("rounds/*/*")) if p.name in FILES]
    assert len(paths) == 3 + 3 + 2 + 2
    with Ledger.read(folder) as ledger:
        assert not ledger.damage()
        return ledger.purchases(), {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def phases(folder):
    with Ledger.read(folder) as ledger:
        return len(ledger.phases())


def test_killed_before_and_after_every_phase(processes, base, whole, tmp_path):
    """30 kills of one run; each process gets one phase further, or none."""
    folder = tmp_path / "run"
    for number in range(PHASES):
        assert start(processes, base, folder, "before") == -signal.SIGKILL
        assert phases(folder) == number
        assert start(processes, base, folder, "after") == -signal.SIGKILL
        assert phases(folder) == number + 1
    assert start(processes, base, folder) == 0
    assert decided(folder) == whole[0]


@pytest.mark.parametrize("count", range(1, 62, 4))
def test_killed_while_a_file_is_written(processes, base, whole, tmp_path, count):
    folder = tmp_path / "run"
    assert start(processes, base, folder, "sync", count) == -signal.SIGKILL
    assert start(processes, base, folder) == 0
    assert decided(folder) == whole[0]


def test_killed_at_random_moments(processes, base, whole, tmp_path):
    draw = random.Random(0)
    killed, seconds = 0, whole[1]
    while killed < RANDOM_MOMENTS:
        folder = tmp_path / str(killed)
        started = time.perf_counter()
        if start(processes, base, folder, kill_after=draw.uniform(0, seconds)) == 0:
            # It ended before the moment came: how fast a run is depends on the machine's load.
            seconds = time.perf_counter() - started
            shutil.rmtree(folder)
            continue
        killed += 1
        assert start(processes, base, folder) == 0
        assert decided(folder) == whole[0]
