"""Jobs of several processes, as launchers and clusters start them; here on one machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint
from segal.runs.ledger import Ledger
from tests.conftest import CLASSES, write_image
from tests.dying_strategy import ORDERS

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tools" / "cluster"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


@pytest.fixture
def echoing(tmp_path):
    """The environment of a shell in which `python` and what Slurm has say how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    called = '#!/bin/sh\nprintf "%s\\n" "$(basename "$0") $*"\n'
    scripts = {
        "python": called,
        "torchrun": called,
        "srun": '#!/bin/sh\nexec "$@"\n',
        "scontrol": "#!/bin/sh\necho node-7; echo node-8\n",
    }
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def said(command, environment):
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return found.stdout.strip()


def container(name):
    """Command, arguments and environment of the one container of a Kubernetes Job."""
    (one,) = (EXAMPLES / name).read_text().split("\n---\n")
    job = yaml.safe_load(one)
    (found,) = job["spec"]["template"]["spec"]["containers"]
    environment = {given["name"]: given["value"] for given in found.get("env", [])}
    return job["spec"], [*found["command"], *found["args"]], environment


def test_slurm_starts_what_it_says(echoing):
    array = echoing | {"SLURM_ARRAY_TASK_ID": "5"}
    script = str(EXAMPLES / "slurm_scan.sh")
    assert said([script, "scan", "16", "S", "--region", "64"], array) == (
        "python -m segal scan --shard 5/16 --out S --region 64"
    )
    assert said([script, "select", "S", "R", "--region", "64"], echoing) == (
        "python -m segal select --from-scan S --out R --region 64"
    )
    job = {"SLURM_JOB_NODELIST": "node-[7-8]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "31"}
    script = str(EXAMPLES / "slurm_ranks.sh")
    assert said([script, "select", "--out", "R"], echoing | job | {"SLURM_GPUS_ON_NODE": "4"}) == (
        "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-id 31 "
        "--rdzv-endpoint node-7:29500 -m segal select --out R"
    )
    assert "--nproc-per-node 1 " in said([script, "train"], echoing | job)


def test_kubernetes_starts_what_it_says(echoing):
    spec, command, given = container("kubernetes_scan.yaml")
    assert spec["completionMode"] == "Indexed"
    assert int(given["SHARDS"]) == spec["completions"]
    index = echoing | given | {"JOB_COMPLETION_INDEX": "15"}
    assert said(command, index) == (
        "python -m segal scan --shard 16/16 --out /data/scan --config /data/select.yaml"
    )
    _, command, given = container("kubernetes_select.yaml")
    assert said(command, echoing | given) == (
        "python -m segal select --from-scan /data/scan --out /data/run --config /data/select.yaml"
    )


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Options of a selection of four blocks, but for --out, as a file and as arguments."""
    root = tmp_path_factory.mktemp("given")
    for i in range(28):
        write_image(root / "images" / f"{i:02d}.png", 192, 192, i)
    torch.manual_seed(0)
    network = build_model(make_spec("tests.tiny_network:build", "", CLASSES)).eval()
    save_checkpoint(network, root / "model.safetensors")
    values = {
        "images": str(root / "images"),
        "checkpoint": str(root / "model.safetensors"),
        "model": {"architecture": "tests.tiny_network:build"},
        "strategy": {"name": "tests.dying_strategy:Dying"},
        **{"region": "64", "budget": "6", "overlays": 1, "machine": {"threads": 1}},
    }
    (root / "select.yaml").write_text(json.dumps(values))
    return root


@pytest.fixture(scope="module")
def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def alone(given, environment, tmp_path_factory):
    """What one process chooses."""
    out = tmp_path_factory.mktemp("alone") / "run"
    command = [sys.executable, "-m", "segal", "select", "--config", given / "select.yaml"]
    subprocess.run([*command, "--out", out], env=environment, check=True, capture_output=True)
    return chosen(out)


def chosen(run):
    files = [run / "selection.csv", *run.rglob("*.npy"), *run.glob("masks/*")]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def on_ranks(count, given, out, environment):
    command = [*TORCHRUN, str(count), "-m", "segal", "select", "--config", given / "select.yaml"]
    command += ["--out", out]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["", "scan 1", "scan 0", "select 1", "select 0", "launcher 0"])
def test_whoever_is_killed_the_same_command_goes_on(given, environment, alone, tmp_path, order):
    """The first job is of two ranks; the second of three, where it goes on within a scan."""
    orders = tmp_path / "orders"
    orders.write_text(order)
    mortal = environment | {ORDERS: str(orders)}
    found = on_ranks(2, given, tmp_path / "run", mortal)
    if order:
        assert found.returncode != 0
        assert not orders.exists()
        wait_for_the_folder(tmp_path / "run")
        with Ledger.read(tmp_path / "run") as ledger:
            assert ledger.purchases() == []
        found = on_ranks(3 if "scan" in order else 2, given, tmp_path / "run", mortal)
    assert found.returncode == 0, found.stderr
    assert chosen(tmp_path / "run") == alone
    assert found.stdout == f"{tmp_path / 'run' / 'selection.csv'}\n"
    assert found.stderr.count("6 of 252 regions") == 1


def wait_for_the_folder(run):
    """Ranks whose launcher was killed end at once, though not before it."""
    deadline = time.monotonic() + 30
    holder = (run / ".lock").read_text().split()[1]
    while Path(f"/proc/{holder}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.mark.slow
def test_ranks_that_do_not_do_the_same_are_refused_by_name(given, environment, tmp_path):
    script = tmp_path / "start.sh"
    script.write_text(
        f"exec {sys.executable} -m segal select --config {given / 'select.yaml'} "
        f'--out {tmp_path / "run"} --seed "$RANK"\n'
    )
    command = [*TORCHRUN, "2", "--no-python", "bash", str(script)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode != 0
    assert "seed: 0 on rank 0, 1 on rank 1" in found.stderr


@pytest.mark.slow
def test_the_examples_come_to_what_one_process_chooses(given, environment, alone, tmp_path):
    """The array's tasks at the same time, as on a cluster."""
    environment = {**environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script, config = str(EXAMPLES / "slurm_scan.sh"), ["--config", str(given / "select.yaml")]
    scan, run = str(tmp_path / "scan"), str(tmp_path / "run")
    tasks = [
        subprocess.Popen(
            [script, "scan", "2", scan, *config],
            env=environment | {"SLURM_ARRAY_TASK_ID": number},
            stderr=subprocess.DEVNULL,
        )
        for number in "12"
    ]
    assert [task.wait() for task in tasks] == [0, 0]
    subprocess.run([script, "select", scan, run, *config], env=environment, check=True)
    assert chosen(tmp_path / "run") == alone
    pods = tmp_path / "data"
    pods.mkdir()
    (pods / "select.yaml").write_bytes((given / "select.yaml").read_bytes())
    for name, indices in (("kubernetes_scan.yaml", "01"), ("kubernetes_select.yaml", "0")):
        _, command, variables = container(name)
        command = [part.replace("/data/", f"{pods}/") for part in command]
        variables |= {"SHARDS": "2"}
        started = [
            subprocess.Popen(command, env=environment | variables | {"JOB_COMPLETION_INDEX": i})
            for i in indices
        ]
        assert {pod.wait() for pod in started} == {0}
    assert chosen(pods / "run") == alone
