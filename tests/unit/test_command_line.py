"""What the command line promises before any work is done."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from typing import get_args

import pytest
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from segal.cli import app
from segal.config import CompareConfig, RunConfig, SelectConfig, TrainConfig
from segal.jobs.explain import ExplainConfig
from segal.jobs.tuning.tune import TuneConfig


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Another interpreter, with nothing said about how OpenMP's threads wait but `environment`."""
    inherited = {
        k: v for k, v in os.environ.items() if k not in {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    }
    return subprocess.run(
        [sys.executable, *arguments],
        check=True, capture_output=True, text=True, env=inherited | environment,
    )  # fmt: skip


# Options


def options(command: str) -> dict[str, tuple[list[str], str | None]]:
    """By parameter, its names and its help."""
    parameters = typer.main.get_command(app).commands[command].params
    return {p.name: (sorted(p.opts), getattr(p, "help", None)) for p in parameters}


def test_plan_takes_every_option_of_select():
    own = {"ranks", "click_seconds"}
    assert {k: v for k, v in options("plan").items() if k not in own} == options("select")
    assert len(options("select")) > 20


def test_options_of_explain_that_select_has_are_the_same():
    explain, select = options("explain"), options("select")
    shared = explain.keys() & select.keys() - {"out"}  # `out` takes pictures there
    assert {name: explain[name] for name in shared} == {name: select[name] for name in shared}
    assert {"images", "reference", "arch", "batch_size", "precision"} <= shared


def test_plan_reads_the_options_as_select_does(segal, image_folder, checkpoint, tmp_path):
    """Every mistake is told at once, by its key, whichever of the two is asked."""
    call = (
        *("--images", image_folder, "--checkpoint", checkpoint, "--budget", "0"),
        *("--out", tmp_path / "out", "--tau", "-1", "--input-scale", "0", "--precision", "fp8"),
        *("--batch-size", "0", "--overlays", "-1", "--seed", "-1", "train.lr=1"),
    )
    code, _, planned = segal("plan", *call)
    assert code == 2
    assert segal("select", *call) == (2, "", planned)
    for key in ("budget", "tau", "input_scale", "precision", "batch_size", "overlays", "seed"):
        assert key in planned
    assert not (tmp_path / "out").exists()


CONFIGURED = {
    "select": SelectConfig, "plan": SelectConfig, "train": TrainConfig, "run": RunConfig,
    "compare": CompareConfig, "explain": ExplainConfig, "tune": TuneConfig,
}  # fmt: skip


def given_by(command: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, ...]]:
    """By option of a command, the keys of the configuration that it gives."""

    class Stopped(Exception):
        pass

    def read(file: object, overrides: object, flags: dict[str, object]) -> None:
        raise Stopped([key for key, value in flags.items() if value is not None])

    monkeypatch.setattr("segal.config.read_config", read)
    callback = importlib.import_module(f"segal.commands.{command}").__dict__[command]
    names = [p for p in inspect.signature(callback).parameters if p not in {"overrides", "config"}]
    keys = {}
    for name in names:
        values = dict.fromkeys(names) | {name: "some:thing"}
        with pytest.raises(Stopped) as stopped:
            callback(overrides=None, config=None, **values)
        keys[name] = tuple(stopped.value.args[0])
    return keys


def field_of(kind: type[BaseModel], key: str) -> FieldInfo:
    """The field of a dotted key."""
    first, _, rest = key.partition(".")
    field = kind.model_fields[first]
    if not rest:
        return field
    if (kind, first) == (CompareConfig, "run"):
        return field_of(RunConfig, rest)
    (section,) = (o for o in (field.annotation, *get_args(field.annotation)) if is_section(o))
    return field_of(section, rest)


def is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


@pytest.mark.parametrize("command", CONFIGURED)
def test_options_give_keys_that_there_are_and_tell_their_defaults(command, monkeypatch):
    shown = options(command)
    told = 0
    for name, keys in given_by(command, monkeypatch).items():
        for key in keys:
            if key.split(".")[0] == "strategy":
                continue  # its parameters are the strategy's own
            default = field_of(CONFIGURED[command], key).default
            match = re.search(r"\[default: (.*)\]", shown[name][1] or "")
            if match and isinstance(default, str | int) and default != "":
                assert match[1] == str(default), f"{command} --{name}"
                told += 1
    assert told or command == "compare"


# Help

HELP = """
import sys
from segal.cli import app
import segal
for command in ([], *([name] for name in sys.argv[1:])):
    try:
        app([*command, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
print("modules:", *{name.partition(".")[0] for name in sys.modules})
"""
HEAVY = {
    *("torch", "torchvision", "numpy", "scipy", "sklearn", "cv2", "PIL", "matplotlib"),
    *("albumentations", "pydantic", "yaml", "rich", "jinja2", "psutil", "safetensors"),
}


def test_help_and_the_import_of_segal_need_no_library():
    """Help in a quarter of a second of processor time: each of these alone would take it."""
    commands = sorted(typer.main.get_command(app).commands)
    *helps, modules = run_python("-c", HELP, *commands).stdout.splitlines()
    assert len([line for line in helps if line.startswith("Usage:")]) == 1 + len(commands)
    assert len([line for line in helps if "-h, --help" in line]) == 1 + len(commands)
    assert "typer" in modules.split()
    assert not HEAVY & set(modules.split())


# Threads

WORK = """
import hashlib, sys
import segal
assert "torch" not in sys.modules
import torch
torch.set_num_threads(2)
torch.manual_seed(0)
network = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 3)
)
optimizer = torch.optim.SGD(network.parameters(), 0.1)
for _ in range(3):
    optimizer.zero_grad()
    torch.logsumexp(network(torch.randn(2, 3, 96, 96)), 1).mean().backward()
    optimizer.step()
weights = torch.cat([p.detach().flatten() for p in network.parameters()])
print(hashlib.sha256(weights.numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_waiting_threads_spin_shortly_unless_the_user_says_otherwise():
    """The OpenMP runtime that torch loads says itself what is in force; results are the same."""
    quiet, spinning = (
        run_python("-c", WORK, OMP_DISPLAY_ENV="verbose", **said)
        for said in ({}, {"OMP_WAIT_POLICY": "ACTIVE"})
    )
    assert spin_counts(quiet) == {5000}
    assert min(spin_counts(spinning)) > 1_000_000
    assert quiet.stdout == spinning.stdout and len(quiet.stdout.strip()) == 64


def spin_counts(done: subprocess.CompletedProcess[str]) -> set[int]:
    assert done.returncode == 0, done.stderr
    return {int(count) for count in re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)}
