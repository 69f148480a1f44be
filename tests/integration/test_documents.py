"""Every command of the documents is run, and every configuration loads."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from segal.config import TrainConfig, read_config
from segal.config import validate as validate_values
from segal.data.synthetic import make_scenes
from segal.jobs.strategies import configure_selection

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands():
    """Lines of the README's shell blocks."""
    return [line for block in blocks(README, "bash") for line in block.strip().splitlines()]


@pytest.fixture
def places(tmp_path, model):
    """What the README's words in capitals stand for."""
    make_scenes(tmp_path / "scenes", splits={"train": 4, "val": 2}, size=(64, 128), seed=0)
    encoder = tmp_path / "encoder.pth"
    torch.save(dict(model.network.encoder.state_dict()), encoder)
    return {
        "DIR": tmp_path / "scenes" / "leftImg8bit" / "train",
        "RUN": tmp_path / "run",
        "DATASET": tmp_path / "scenes",
        "MODEL": tmp_path / "model",
        "FILE": encoder,
    }


def test_the_readme_has_two_commands_for_a_fresh_machine():
    assert "pip install -e . && segal demo" in commands()
    assert "pip install -e '.[dev]' && pytest" in commands()
    run = (ROOT / ".ci" / "run").read_text()
    assert "grep -m 1 -F 'pytest' README.md" in run
    assert next(c for c in README.splitlines() if "pytest" in c) == (
        "pip install -e '.[dev]' && pytest"
    )


def test_the_commands_of_the_readme(segal, places, checkpoint):
    ran = []
    for line in commands():
        if not line.startswith("segal "):
            continue
        words = shlex.split(line)[1:]
        if words[0] == "select":
            place = {**places, "FILE": checkpoint}
            # A budget that is larger than this small pool takes all of it.
            extra = ["--overlays", 1]
        else:
            place = places
            extra = ["train.iterations=2", "train.batch_size=2", "train.crop=64"]
        words = [re.sub(r"[A-Z]{3,}", lambda m, place=place: str(place[m[0]]), w) for w in words]
        code, _, stderr = segal(*words, *extra)
        assert code == 0, (line, stderr)
        ran.append(words[0])
    assert ran == ["select", "train"]
    assert segal("validate", places["DATASET"])[0] == 0
    assert segal("strategies")[0] == 0


def test_the_files_that_the_readme_names_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_python_of_the_readme():
    for block in blocks(README, "python"):
        space = {}
        exec(block, space)
        assert len(space["picks"]) == 100


def test_the_strategy_of_the_guide_works_by_its_import_path(
    segal, image_folder, checkpoint, tmp_path, monkeypatch
):
    guide = (ROOT / "docs" / "adding_a_strategy.md").read_text()
    (tmp_path / "my_strategies.py").write_text(blocks(guide, "python")[0])
    (tmp_path / "my_uncertainty.py").write_text("def spread(z):\n    return z.amax(1).exp()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    call = ("--images", image_folder, "--checkpoint", checkpoint, "--region", 32, "--budget", 4)
    code, _, stderr = segal(
        "select", *call, "--strategy", "my_strategies:LargestMargin", "--out", tmp_path / "a"
    )
    assert code == 0, stderr
    scores = [
        float(line.rsplit(",", 1)[1])
        for line in (tmp_path / "a" / "selection.csv").read_text().splitlines()[1:]
    ]
    assert scores == sorted(scores)
    code, _, stderr = segal(
        "select", *call, "strategy.uncertainty=my_uncertainty:spread", "--out", tmp_path / "b"
    )
    assert code == 0, stderr


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_configuration_opens_with_its_command_and_is_valid(path):
    text = path.read_text()
    first = text.splitlines()[0]
    command = re.match(r"# segal (select|train) --config configs/(\S+) ", first)
    assert command, first
    assert command[2] == path.name
    assert yaml.safe_load(text)
    raw = read_config(path, [], {})
    if command[1] == "select":
        configure_selection(raw)
    else:
        config, errors = validate_values(TrainConfig, raw)
        assert not errors
        assert config is not None


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_configuration_runs_on_made_data(segal, places, checkpoint, tmp_path, path):
    if "select" in path.read_text().splitlines()[0]:
        extra = [f"images={places['DIR']}", f"checkpoint={checkpoint}", "region=16"]
        command = "select"
    else:
        extra = [
            f"data.root={places['DATASET']}", "data.layout=cityscapes", "data.test=val",
            "data.ignore_index=255", "model.encoder=resnet18",
            f"model.encoder_weights={places['FILE']}", "train.iterations=2",
            "train.batch_size=2", "train.crop=64",
        ]  # fmt: skip
        command = "train"
    code, _, stderr = segal(command, "--config", path, *extra, "--out", tmp_path / "out")
    assert code == 0, stderr


@pytest.mark.slow
def test_the_demo_of_the_readme(segal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "segal demo" in commands()[0]
    code, stdout, stderr = segal("demo")
    assert code == 0, stderr
    assert "the seed set and uwe" in stdout
    assert len(list((tmp_path / "demo" / "3-uwe" / "overlays").glob("*.png"))) > 5
