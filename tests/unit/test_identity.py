"""By what a run folder knows that it is of the same run."""

from pathlib import Path
from typing import get_args

import pytest

from segal.config import CompareConfig, RunConfig, SelectConfig, TrainConfig
from segal.jobs.comparing.arms import Arm
from segal.jobs.labelled import Labelled
from segal.jobs.reference import SelectionLabels
from segal.jobs.select import identity_with as select_identity
from segal.jobs.strategies import configure_selection
from segal.jobs.train import _identity as train_identity
from segal.runs.run_folder import fingerprint
from segal.system.sections import Result, Section

DATA = {"root": "r", "test": "val"}
PREFIX = {"budget_fit": "prefix"}  # what there was before the key
SELECT = {"images": "i", "out": "o", "budget": "5%", "strategy": {"name": "random"}} | PREFIX
TRAIN = {"data": DATA, "out": "o"}
RUN = TRAIN | {"seed_set": "5%", "strategy": {"name": "uwe"}, "budgets": "5%,4"} | PREFIX
COMPARE = {
    "run": {"x": 1},
    "arms": [{"name": "a"}, {"name": "b", "set": {"strategy": "uwe"}, "seeds": "1,2"}],
    "seeds": "0,1",
    "out": "o",
}
WEIGHTS = "a file with the bytes b'weights'"


def identities(command, raw):
    """By what the results of a configuration are told apart; of a run, also as an arm's."""
    if command == "select":
        config, strategy = configure_selection(SELECT | raw)
        return [select_identity(config, SelectionLabels.open(config, strategy))]
    if command == "train":
        return [train_identity(TrainConfig.model_validate(TRAIN | raw), Labelled.open(()))]
    if command == "compare":
        return [CompareConfig.model_validate(COMPARE | raw).identity()]
    config = RunConfig.model_validate(RUN | raw)
    return [config.identity(), Arm("a", False, (0,), config, None).identity]


# Written down before keys said themselves what part they have, so that folders from then go on.
KNOWN = [
    ("select", {}, "89df2aa3b5455387"),
    ("select", {"checkpoint": WEIGHTS}, "99d129525740b65b"),
    ("select", {"bands": "4,3,2", "page": 2}, "0b4855f3e36aee92"),
    ("select", {"value_range": "0,4095"}, "9d63a9fe0fa3e5b3"),
    ("select", {"unique": True}, "ed4fe8b1ef1089a9"),
    ("select", {"model": {"options": {}, "state": ""}}, "d992cffb472a258f"),
    (
        "select",
        {"model": {"options": {"a": 1}, "state": "ema", "insert_dropout": 0.0}},
        "6549a5206f55b8fd",
    ),
    (
        "select",
        {"overlays": 3, "machine": {"threads": 2}, "skip_missing": True, "skip_unreadable": True},
        "af2cf60118051488",
    ),
    ("run", {}, "d894e3451e9938d1", "4454eda11a84bd5d"),
    ("run", {"checkpoint": WEIGHTS}, "e56d600f8956a8d4", "ed01c32c02d450aa"),
    ("run", {"model": {"encoder_weights": WEIGHTS}}, "e6425a97ae676c68", "fa7ba3168e6289b7"),
    ("run", {"seed": 3, "machine": {"threads": 2}}, "6a0391c68de55507", "4454eda11a84bd5d"),
    (
        "run",
        {"model": {"insert_dropout": 0.0, "options": {}, "state": "", "new_classes": True}},
        *("3de405ce3c585c18", "6df3d7685ed086af"),
    ),
    (
        "run",
        {"data": DATA | {"label_suffix": "_m", "bands": "all", "page": 3, "scenes": {}}
         | {"reduce_zero_label": True}},
        *("27d54aaea16b9ee0", "d50281f6cd1485fb"),
    ),
    ("run", {"train": {"learning_loss": True}}, "35c36a983db14785", "a33dd72140321133"),
    (
        "run",
        {"train": {"learning_loss": False, "workers": 9, "checkpoint_every": 3}, "overlays": 0},
        *("d894e3451e9938d1", "4454eda11a84bd5d"),
    ),
    ("run", {"unique": True}, "ae72bfb80c033d57", "d000f6a6caee3bbc"),
    ("run", {"measure_picks": False}, "2b838a8ae6d0489c", "4454eda11a84bd5d"),
    (
        "run",
        {"steps": "proportional", "start": "warm", "seed_region": "64", "region": "32"}
        | {"precision": "fp16", "embedding_dtype": "float16"},
        *("cf79e039ca0712ab", "cf5453c5f6661dfd"),
    ),
    ("train", {}, "60880048252806b4"),
    ("train", {"checkpoint": WEIGHTS}, "e1c7fd3aeb02aab0"),
    (
        "train",
        {"train": {"learning_loss": {"weight": 2}, "min_lr": 1e-5, "crop": "image"}},
        "917ce6a0237a1141",
    ),
    ("train", {"missing_labels": "skip"}, "37490f5423bba56b"),
    ("train", {"skip_missing": True}, "60880048252806b4"),
    ("compare", {}, "ee5c4d6d210728b3"),
    (
        "compare",
        {"target": 0.5, "primary": {"arm": "a", "against": "b"}, "axis": "pixels"}
        | {"permutations": 200, "label_permutation": True, "machine": {"threads": 2}},
        "b7c593ad08d60b54",
    ),
]  # fmt: skip


@pytest.mark.parametrize("known", KNOWN, ids=str)
def test_runs_stay_the_runs_that_they_were(known, tmp_path):
    command, raw, *expected = known
    (tmp_path / "weights").write_bytes(b"weights")

    def filled(value):
        if isinstance(value, dict):
            return {key: filled(inner) for key, inner in value.items()}
        return tmp_path / "weights" if value == WEIGHTS else value

    found = identities(command, filled(raw))
    assert [fingerprint(one)[:16] for one in found] == expected


def sections(kind: object) -> set[type[Section]]:
    """The sections that an annotation or a section's keys lead to, if results depend on them."""
    if not (isinstance(kind, type) and issubclass(kind, Section)):
        return set().union(*map(sections, get_args(kind)))
    by_value = {key for key, part in kind.parts() if part.by == "value"}
    inner = (sections(kind.model_fields[key].annotation) for key in by_value)
    return {kind}.union(*inner)


def test_every_key_says_whether_results_depend_on_it():
    """A new key that does not is a TypeError here."""
    found = set().union(*map(sections, (SelectConfig, TrainConfig, RunConfig, CompareConfig)))
    assert {kind.__name__ for kind in found} >= {
        "DataConfig", "NetworkConfig", "PoolModelConfig", "TrainSettings", "LearningLossSettings",
        "ScenesConfig", "ArmConfig", "ContrastConfig",
    }  # fmt: skip
    for kind in found:
        assert [key for key, _ in kind.parts()] == list(kind.model_fields)


def test_a_key_that_does_not_say_so_is_a_mistake():
    class Silent(Section):
        said: Result[int] = 0
        silent: int = 0

    class Twice(Section):
        twice: Result[Result[int]] = 0

    with pytest.raises(TypeError, match=r"Silent\.silent"):
        Silent().identity()
    with pytest.raises(TypeError, match=r"Twice\.twice"):
        Twice().identity()


def test_where_files_lie_and_how_the_work_is_run_identify_nothing(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for path in (here, there):
        path.write_bytes(b"weights")
    configs = [
        SelectConfig.model_validate(
            SELECT | {"checkpoint": path, "images": path, "out": path, "machine": {"workers": n}}
        )
        for n, path in enumerate((here, there))
    ]
    first, second = (config.identity() for config in configs)
    assert first == second
    there.write_bytes(b"others")
    assert configs[1].identity() != first
    assert not any(isinstance(value, Path) for value in first.values())
