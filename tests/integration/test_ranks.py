"""Jobs over several ranks, which are processes: what they come to is what one process comes to."""

import ast
import os
import shutil
import subprocess
import sys
import time

import cv2
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from segal.errors import SegalError
from segal.runs.database import lock
from segal.runs.ledger import Ledger
from segal.scenes.synthetic import make_scenes
from segal.system.ranks import Ranks
from tests.quick_run import quick_run
from tests.rank_processes import ROOT, end_ranks, environment, start_ranks
from tests.ranks_at_work import CASES, run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    for code, _, errors in end_ranks(start_ranks(2, ["-m", "tests.ranks_at_work", folder])):
        assert code == 0, errors
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_the_network_that_one_process_trains(trained, case):
    result, expected = run(case, Ranks())
    within = 1e-5 if CASES[case].get("precision") is None else 2e-3
    files = [trained / f"{case}-{rank}.safetensors" for rank in range(2)]
    other = load_file(files[1])
    for key, value in load_file(files[0]).items():
        assert torch.equal(value, other[key]), key
        assert torch.allclose(value.double(), expected[key].double(), atol=within, rtol=0), key
    with safe_open(files[0], "pt") as file:
        said = file.metadata()
    assert ast.literal_eval(said["loss"]) == pytest.approx(result.loss, abs=10 * within)
    found, there = ast.literal_eval(said["validations"]), result.validations
    assert [step for step, _ in found] == [step for step, _ in there]
    assert [score for _, score in found] == pytest.approx([score for _, score in there], abs=1e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_no_thread_outlives_the_interpreter(trained):
    # One that lets go of a tensor too late aborts its process: one in ten did, under load.
    for rank in range(2):
        at_work, at_end = map(int, (trained / f"threads-{rank}").read_text().split())
        assert at_work > 0
        assert at_end == 0


def test_one_process_goes_on_where_two_ranks_were_killed(trained):
    steps, (result, expected) = [], run("pieces", Ranks())
    found, weights = run(
        "pieces",
        Ranks(),
        checkpoint=trained / "killed.safetensors",
        progress=lambda step, *_: steps.append(step),
    )
    assert steps == list(range(7, 13))
    for key, value in weights.items():
        assert torch.allclose(value.double(), expected[key].double(), atol=1e-5, rtol=0), key
    assert [step for step, _ in found.validations] == [step for step, _ in result.validations]


# Runs


LINEAR = {
    "layers": "last", "optimizer": "lbfgs", "crop": "image", "augment": "none",
    "iterations": 500, "gradient_norm": 1e-4, "pixels": 2000,
}  # fmt: skip
PIECES = {"batch_size": 4, "accumulate": 2, "iterations": 6, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, splits={"train": 8, "val": 3}, size=(64, 128), seed=0)
    return root


def command(scenes, folder, train, **changes):
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(quick_run(scenes, train, **changes)))
    return ["-m", "segal", "run", "--config", config, "--out", folder / "run"]


def decided(folder):
    """The purchases of a run, and the bytes of what decides them."""
    names = ("selection.csv", "model.safetensors", "evaluation.npz", "picks.json")
    files = [p for p in sorted(folder.glob("rounds/*/*")) if p.name in names]
    with Ledger.read(folder) as ledger:
        return ledger.purchases(), {str(p.relative_to(folder)): p.read_bytes() for p in files}


def refused(started):
    """What every rank said when all of them refused."""
    ended = end_ranks(started)
    assert [code for code, *_ in ended] == [2] * len(ended), ended
    return [errors for *_, errors in ended]


@pytest.mark.parametrize("name", ["compare", "report", "plan"])
def test_commands_of_one_process_are_refused_by_name(name):
    for said in refused(start_ranks(2, ["-m", "segal", name, "--out", "nowhere"])):
        assert f"segal {name} is not for 2 ranks" in said
        assert ("with the same --out" in said or "on any machines" in said) == (name == "compare")


@pytest.mark.slow
def test_a_run_over_two_ranks_is_that_of_one_process(scenes, tmp_path):
    (tmp_path / "one").mkdir()
    ends = end_ranks(start_ranks(2, command(scenes, tmp_path, LINEAR)))
    assert [code for code, *_ in ends] == [0, 0], ends
    assert [out for _, out, _ in ends] == [f"{tmp_path / 'run'}\n", ""]
    (alone,) = end_ranks(start_ranks(1, command(scenes, tmp_path / "one", LINEAR)))
    assert alone[0] == 0, alone
    assert decided(tmp_path / "run") == decided(tmp_path / "one" / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_rank_killed_in_a_training_and_another_number_goes_on(scenes, tmp_path, before, after):
    train = {**PIECES, "batchnorm": "frozen", "iterations": 40, "lr": 1e-4}
    (tmp_path / "whole").mkdir()
    arguments = command(scenes, tmp_path, train, budgets=["10%"])
    started = start_ranks(before, arguments)
    unfinished = tmp_path / "run" / "rounds" / "000" / ".unfinished.safetensors"
    while not unfinished.exists():
        assert started[-1].poll() is None, end_ranks(started)
        time.sleep(0.01)
    started[-1].kill()
    ends = end_ranks(started)
    assert ends[-1][0] == -9
    for code, _, errors in ends[:-1]:  # no rank hangs, or goes on alone
        assert code == 2, errors
        assert "another rank of this job has ended" in errors
    assert not (tmp_path / "run" / "rounds" / "000" / "model.safetensors").exists()
    for code, *said in end_ranks(start_ranks(after, arguments)):
        assert code == 0, said
    whole = command(scenes, tmp_path / "whole", train, budgets=["10%"])
    assert [code for code, *_ in end_ranks(start_ranks(1, whole))] == [0]
    picks = [
        [(p.image, p.box, p.rank) for p in decided(folder / "run")[0]]
        for folder in (tmp_path, tmp_path / "whole")
    ]
    assert picks[0] == picks[1]
    models = [
        load_file(folder / "run" / "rounds" / "001" / "model.safetensors")
        for folder in (tmp_path, tmp_path / "whole")
    ]
    for key, value in models[0].items():
        assert torch.allclose(value.double(), models[1][key].double(), atol=1e-4), key


@pytest.mark.slow
def test_a_training_whose_launcher_is_killed_ends_and_goes_on(scenes, tmp_path):
    train = {**PIECES, "iterations": 400}
    arguments = command(scenes, tmp_path, train, budgets=[])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*launcher, *map(str, arguments)],
        cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    unfinished = tmp_path / "run" / "rounds" / "000" / ".unfinished.safetensors"
    while not unfinished.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    for _ in range(600):  # the ranks end, and the folder is free
        try:
            os.close(lock(tmp_path / "run"))
            break
        except SegalError:
            time.sleep(0.1)
    short = command(scenes, tmp_path, train, budgets=[])
    (said,) = end_ranks(start_ranks(1, short))
    assert said[0] == 0, said


@pytest.mark.slow
@pytest.mark.parametrize("what", ["configuration", "files"])
def test_ranks_that_differ_are_refused_before_anything_is_made(scenes, tmp_path, what):
    arguments, names = command(scenes, tmp_path, PIECES), ["seed", "labels of test"]
    if what == "files":
        other = tmp_path / "scenes"
        shutil.copytree(scenes, other)
        label = next(iter(sorted((other / "gtFine" / "val").rglob("*_labelIds.png"))))
        picture = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
        picture[:4] = 7
        cv2.imwrite(str(label), picture)
    changed = [["seed=1"], [f"data.root={tmp_path / 'scenes'}"]][what == "files"]
    for said in refused(start_ranks(2, arguments, of_rank={1: [*arguments, *changed]})):
        assert "the ranks of this job do not do the same" in said
        assert names[what == "files"] in said
    assert not (tmp_path / "run").exists()
