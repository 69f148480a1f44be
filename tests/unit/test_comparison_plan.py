"""From a comparison's configuration to its runs; what is refused, and how it is said."""

import copy

import cv2
import numpy as np
import pytest

from segal.errors import SegalError, SegalErrors
from segal.jobs.planning import plan_comparison


@pytest.fixture
def raw(tmp_path):
    """Ten images of 64 x 96 pixels: 6 regions of 32 each."""
    for split in ("train", "val"):
        for kind, value in (("images", 90), ("labels", 1)):
            folder = tmp_path / "data" / kind / split
            folder.mkdir(parents=True)
            for i in range(10):
                cv2.imwrite(str(folder / f"{i}.png"), np.full((64, 96), value, np.uint8))
    (tmp_path / "data" / "classes.txt").write_text("road\ncar\n")
    return {
        "run": {
            "data": {"root": str(tmp_path / "data"), "test": "val", "layout": "folder"},
            "train": {"iterations": 100, "batch_size": 2},
            "seed_set": "10%",
            "region": "32",
            "budgets": ["10%", "20%"],
            "strategy": {"name": "uwe", "tau": 0.5, "uncertainty": "bvsb"},
        },
        "arms": [
            {"name": "random", "set": {"strategy": {"name": "random"}}},
            {"name": "uwe"},
            {"name": "uwe-0.1", "set": {"strategy": {"tau": 0.1}}},
        ],
        "seeds": [3, 1],
        "out": str(tmp_path / "out"),
    }


def refused(raw, *expected):
    """All mistakes of a refused comparison, as text; the keys that are expected, and no others."""
    with pytest.raises(SegalError) as caught:
        plan_comparison(raw)
    error = caught.value
    errors = error.errors if isinstance(error, SegalErrors) else [error]
    problems = [one.problem for one in errors]
    assert sorted(p.partition(":")[0] for p in problems) == sorted(expected), problems
    return str(error)


def arm(raw, name, **keys):
    """Adds an arm."""
    raw["arms"] = [*raw["arms"], {"name": name, **keys}]


def test_an_arm_may_train_what_its_strategy_alone_needs(raw):
    own = {"strategy": {"name": "learning_loss"}, "train": {"learning_loss": True}}
    arm(raw, "learning_loss", set=own)
    assert plan_comparison(raw).arms[-1].config.train.learning_loss is not None


def test_runs_seed_by_seed_each_with_its_first_round(raw, tmp_path):
    plan = plan_comparison(raw)
    out = tmp_path / "out"
    assert [run.title for run in plan.runs] == [
        *("first round of seed 3", "random, seed 3", "uwe, seed 3", "uwe-0.1, seed 3"),
        *("first round of seed 1", "random, seed 1", "uwe, seed 1", "uwe-0.1, seed 1"),
    ]
    first, random, _, uwe = plan.runs[:4]
    assert first.config.out == out / "start" / "seed-3"
    assert (first.config.budgets, first.start, first.config.seed) == ((), None, 3)
    assert uwe.config.out == out / "runs" / "uwe-0.1" / "seed-3"
    assert uwe.start == first.config.out
    assert (uwe.config.seed, uwe.config.budgets) == (3, ("10%", "20%"))
    assert uwe.config.strategy == {"name": "uwe", "tau": 0.1, "uncertainty": "bvsb"}
    assert uwe.strategy.tau == 0.1
    # Another strategy takes none of the shared one's parameters.
    assert random.config.strategy == {"name": "random"}


def test_the_first_round_does_not_depend_on_the_arms(raw):
    other = copy.deepcopy(raw)
    other["arms"].reverse()
    arm(other, "image", set={"region": "image", "strategy": "random"})
    (one,), (two,) = (plan_comparison(r).starts for r in (raw, other))
    assert one.identity == two.identity


def test_strategies_may_be_given_by_name_alone(raw):
    raw["run"]["strategy"] = "entropy"
    arm(raw, "margin", set={"strategy": "margin"})
    plan = plan_comparison(raw | {"arms": [{"name": "random"}, raw["arms"][-1]]})
    assert [a.config.strategy for a in plan.arms] == [{"name": "entropy"}, {"name": "margin"}]


def test_seeds_of_an_arms_own(raw):
    raw["arms"][1]["seeds"] = "1,5"
    raw["arms"][0]["seeds"] = [3, 1, 5]
    titles = [run.title for run in plan_comparison(raw).runs]
    assert titles[-3:] == ["first round of seed 5", "random, seed 5", "uwe, seed 5"]
    assert "uwe, seed 3" not in titles


def test_the_full_arm_trains_on_everything_for_as_long(raw):
    arm(raw, "full", full=True, seeds=[3])
    plan = plan_comparison(raw)
    full = plan.arms[-1].config
    assert (full.seed_set, full.seed_region, full.budgets) == ("100%", "image", ())
    assert full.train.iterations == 100
    run = next(r for r in plan.runs if r.arm == "full")
    assert run.start is None
    raw["run"]["start"] = "warm"
    assert plan_comparison(raw).arms[-1].config.train.iterations == 300
    raw["run"]["steps"] = "proportional"  # 10 %, 20 %, 40 %
    assert plan_comparison(raw).arms[-1].config.train.iterations == 100 + 200 + 400
    raw["run"]["start"] = "scratch"
    raw["run"]["seed_set"] = "1img"
    assert plan_comparison(raw).arms[-1].config.train.iterations == 400
    raw["arms"][-1]["set"] = {"train": {"iterations": 7}}
    assert plan_comparison(raw).arms[-1].config.train.iterations == 7


def test_all_mistakes_of_all_arms_at_once(raw):
    raw["run"]["precision"] = "fp8"
    raw["run"]["out"] = "elsewhere"
    raw["arms"][1]["set"] = {"region": "none", "strategy": {"name": "entropi"}}
    raw["arms"][2]["set"]["seed"] = 4
    raw["baseline"] = "rand"
    raw["primary"] = {"arm": "uwe", "against": "coreset"}
    text = refused(
        raw,
        "run.precision",
        "run.out",
        "arms.uwe.set.region",
        "arms.uwe.set.strategy.name",
        "arms.uwe-0.1.set.seed",
        "baseline",
        "primary.against",
    )
    assert "did you mean 'entropy'?" in text
    assert "did you mean 'random'?" in text
    assert "give the comparison's own seeds" in text


def test_mistakes_beside_the_arms_do_not_hide_the_arms_own(raw):
    raw["seeds"] = "one"
    raw["arms"][1]["set"] = {"budgets": "-5"}
    raw["surprise"] = 1
    refused(raw, "seeds.0", "surprise", "arms.uwe.set.budgets.0")


def test_what_is_missing(raw):
    refused({}, "run", "arms", "seeds", "out")
    del raw["run"]["data"]["test"]
    del raw["run"]["seed_set"]
    refused(raw, "run.seed_set", "run.data")
    raw["run"]["seed_set"] = "10%"
    text = refused(raw, "run.data")
    assert "data.test" in text
    raw["arms"] = []
    refused(raw, "arms")


def test_names_and_seeds(raw):
    arm(raw, "UWE")
    raw["seeds"] = [1, 1]
    raw["arms"][2]["seeds"] = [-1]
    raw["primary"] = {"arm": "uwe", "against": "uwe"}
    text = refused(raw, "arms", "seeds", "arms.uwe-0.1.seeds", "primary")
    assert "UWE, uwe" in text


def test_arms_without_a_seed_in_common(raw):
    raw["arms"][2]["seeds"] = [9]
    assert "some of 1, 3" in refused(raw, "arms.uwe-0.1.seeds")


def test_the_full_arm_is_no_baseline(raw):
    arm(raw, "full", full=True)
    assert "selects nothing" in refused(raw | {"baseline": "full"}, "baseline")


def test_arms_of_another_protocol(raw):
    arm(raw, "longer", set={"train": {"iterations": 200, "workers": 7}, "overlays": 0})
    arm(raw, "other", set={"seed_set": "5%", "start": "warm", "data": {"root": "elsewhere"}})
    arm(raw, "full", full=True, set={"train": {"lr": 0.5}})
    text = refused(
        raw,
        "arms.longer.set.train.iterations",
        "arms.other.set.seed_set",
        "arms.other.set.start",
        "arms.other.set.data.root",
        "arms.full.set.train.lr",
    )
    assert "100, as in arm 'random'" in text


def test_weights_that_are_not_there(raw, tmp_path):
    raw["run"]["checkpoint"] = str(tmp_path / "none.safetensors")
    with pytest.raises(SegalError, match=r"none\.safetensors"):
        plan_comparison(raw)


def test_arms_of_unequal_cost(raw):
    arm(raw, "more", set={"budgets": ["10%", "20.4%"]})
    arm(raw, "sooner", set={"budgets": ["12%", "18%"]})
    text = refused(raw, "arms.more", "arms.sooner")
    assert "after budget 2" in text.split("arms.sooner")[0]
    assert "18,432 pixels, 30 % of the pool" in text
    assert "18,678 pixels, 30.4 % of the pool" in text
    assert "after budget 1" in text.split("arms.sooner")[1]


def test_equal_cost_in_other_units_and_region_sizes(raw):
    arm(raw, "counted", set={"budgets": [6, 12]})
    arm(raw, "fine", set={"region": 16, "budgets": "24,48"})
    arm(raw, "images", set={"region": "image", "budgets": ["1img", "2.01img"]})
    assert len(plan_comparison(raw).arms) == 6
    raw["arms"][-2]["set"]["budgets"] = "24,44"
    assert "(24, 44)" in refused(raw, "arms.fine")


def test_another_number_of_rounds(raw):
    arm(raw, "once", set={"budgets": "30%"})
    assert "2 budgets, as in arm 'random'" in refused(raw, "arms.once.set.budgets")


def test_equal_budgets_need_no_look_at_the_images(raw):
    raw["run"]["data"]["root"] = "nowhere"
    plan_comparison(raw)
    arm(raw, "counted", set={"budgets": [6, 12]})
    with pytest.raises(SegalError, match="nowhere"):
        plan_comparison(raw)
