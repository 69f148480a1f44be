"""Configurations: merging, and mistakes with their keys."""

import pytest
from pydantic import TypeAdapter

from segal.config import RunConfig, SelectConfig, TrainConfig, read_config, validate
from segal.errors import SegalError
from segal.jobs.strategies import configure_selection
from segal.strategies import STRATEGIES

WHOLE = {"images": "a", "out": "b", "budget": "5", "strategy": {"name": "uwe"}}


def test_flags_win_over_overrides_over_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("region: 1\nbudget: 1\nseed: 1\nmachine: {workers: 1, device: cpu}\n")
    raw = read_config(
        file, ["budget=2", "seed=2", "machine.workers=2"], {"seed": 3, "machine.device": None}
    )
    assert raw == {
        "region": 1,
        "budget": "2",
        "seed": 3,
        "machine": {"workers": "2", "device": "cpu"},
    }


def test_another_strategy_takes_none_of_the_files_parameters(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("strategy: {name: uwe, tau: 0.1}\n")
    assert read_config(file, [], {"strategy": "entropy"})["strategy"] == {"name": "entropy"}
    same = read_config(file, ["strategy.name=uwe"], {})
    assert same["strategy"] == {"name": "uwe", "tau": 0.1}
    set_too = read_config(file, ["strategy.selector=k_center", "strategy=coreset"], {})
    assert set_too["strategy"] == {"name": "coreset", "selector": "k_center"}
    file.write_text("strategy: margin\n")
    assert read_config(file, [], {})["strategy"] == {"name": "margin"}


def test_mappings_and_lists_of_them_are_read_as_yaml():
    raw = read_config(
        None,
        ["arms=[{name: a, set: {strategy: {name: random}}}]", "strategy={name: uwe, tau: 2}",
         "strategy.tau=3", "seeds=[0, 1]", "model.options={stride: 8}"],
        {},
    )  # fmt: skip
    assert raw == {
        "arms": [{"name": "a", "set": {"strategy": {"name": "random"}}}],
        "strategy": {"name": "uwe", "tau": "3"},
        "seeds": "[0, 1]",
        "model": {"options": {"stride": 8}},
    }
    with pytest.raises(SegalError, match=r"override arms[\s\S]*arms='"):
        read_config(None, ["arms=[{name: a"], {})


@pytest.mark.parametrize("override", ["tau", "=1", "a..b=1", ".a=1"])
def test_overrides_of_another_form_are_refused(override):
    with pytest.raises(SegalError, match=r"strategy\.tau=0\.5"):
        read_config(None, [override], {})


def test_values_come_out_typed_and_in_normal_form():
    config, errors = validate(
        SelectConfig,
        {
            **WHOLE,
            "region": "256x256",
            "extra_regions": "64,image",
            "labelled": "x.csv,y.csv",
            "value_range": "0,4095",
        },
    )
    assert not errors
    assert config is not None
    assert config.region == "256"
    assert config.value_range == (0.0, 4095.0)
    assert config.extra_regions == ("64", "image")
    assert [p.name for p in config.labelled] == ["x.csv", "y.csv"]


def test_every_mistake_has_its_key_what_was_expected_and_what_was_got():
    _, errors = validate(
        SelectConfig,
        {
            **WHOLE,
            "region": "0",
            "seed": -1,
            "machine": {"thread": 2, "workers": "x"},
            "model": {"mean": "1,x,2"},
            "precision": "fp8",
        },
    )
    text = "\n".join(map(str, errors))
    assert len(errors) == 6, text
    for key in ("region", "seed", "machine.thread", "machine.workers", "precision", "model.mean"):
        assert any(str(e).startswith(key) for e in errors), (key, text)
    assert text.count("expected: ") == text.count("got: ") == text.count("remedy: ") == 6
    assert "did you mean 'threads'?" in text


def test_settings_of_a_training_get_a_remedy_too():
    _, errors = validate(TrainConfig, {"data": {"root": "a"}, "out": "b", "train": {"crop": "0"}})
    assert [e.problem for e in errors] == ["train.crop: not valid"]
    assert errors[0].expected.startswith("a side in pixels")
    assert errors[0].remedy
    train = {"lr": 0.1, "min_lr": 0.5}
    _, errors = validate(TrainConfig, {"data": {"root": "a"}, "out": "b", "train": train})
    assert "min_lr" in str(errors[0])
    assert errors[0].remedy


def test_a_training_needs_its_splits_apart():
    raw = {"data": {"root": "a", "train": "x", "test": "x"}, "out": "b"}
    _, errors = validate(TrainConfig, raw)
    assert "three different splits" in str(errors[0])


def test_an_empty_list_on_the_command_line():
    raw = {"data": {"root": "a", "test": "val"}, "seed_set": "5%", "strategy": {"name": "random"}}
    config, errors = validate(RunConfig, {**raw, "out": "b", "budgets": ""})
    assert not errors
    assert config.budgets == ()
    _, errors = validate(RunConfig, {**raw, "out": "b", "budgets": "5%,"})
    assert [str(error).split(":")[0] for error in errors] == ["budgets.1"]


def test_a_preset_stands_for_published_parameters():
    raw = {"images": "x", "out": "y", "budget": "5", "checkpoint": "z"}
    config, strategy = configure_selection({**raw, "strategy": {"preset": "code", "tau": 0.1}})
    assert (strategy.init, strategy.normalize, strategy.tau) == ("max_norm", "minmax", 0.1)
    assert config.strategy == {
        "name": "uwe", "init": "max_norm", "normalize": "minmax", "tau": 0.1,
    }  # fmt: skip
    _, strategy = configure_selection({**raw, "strategy": {"preset": "code", "normalize": "none"}})
    assert (strategy.init, strategy.normalize) == ("max_norm", "none")
    with pytest.raises(SegalError, match="preset: unknown to uwe"):
        configure_selection({**raw, "strategy": {"preset": "codes"}})
    with pytest.raises(SegalError, match="it has none"):
        configure_selection({**raw, "strategy": {"name": "coreset", "preset": "code"}})


@pytest.mark.parametrize("name", ["uwe", "isal", "ralif"])
def test_every_preset_is_valid(name):
    presets = STRATEGIES.get(name).presets
    assert set(presets) == {"paper", "code"}
    for parameters in presets.values():
        assert TypeAdapter(STRATEGIES.get(name)).validate_python(dict(parameters))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("isal", "hessian_pixels"),
        ("ralif", "tau"),
        ("ralif", "hessian_pixels"),
        ("error_change", "holdout_pixels"),
        ("err_reduction", "pool_pixels"),
        ("learning_loss", "subset"),
    ],
)
def test_null_is_no_value_on_the_command_line(name, key):
    given = [f"strategy.name={name}", f"strategy.{key}=null"]
    raw = read_config(None, given, {})
    assert raw["strategy"] == {"name": name, key: None}
    assert getattr(STRATEGIES.get(name)(**{key: None}), key) is None


def test_null_takes_back_what_a_file_says(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("strategy: {name: isal, hessian_pixels: 5}\ntrain: {patience: 3}\n")
    raw = read_config(file, ["strategy.hessian_pixels=null", "train.patience=null"], {})
    assert raw["strategy"]["hessian_pixels"] is None
    assert raw["train"]["patience"] is None
