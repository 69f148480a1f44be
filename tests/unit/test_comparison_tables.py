"""Tables of a comparison, of runs whose curves are known."""

import csv
import itertools
import json
import math

import numpy as np
import pytest

from segal.comparison import Question, Table, analyse, gather, statement, write_tables
from segal.comparison.arms import Curve
from segal.errors import SegalError
from segal.runs.history import read_history
from tests.fake_runs import make_run

FLAT = {"budget": "2img", "seed_set": "2img", "images": 12, "region": "image"}
"""Whole images: 1/6 of the pixels at the start, and as much for each budget, exactly."""


def histories(folder, arms, seeds=(0, 1)):
    """`arms`: by name, scores (by seed, or a function of the seed) and arguments of `make_run`."""
    made = {}
    for name, given in arms.items():
        arguments = dict(given)
        scores = arguments.pop("scores")
        for seed in arguments.pop("seeds", seeds):
            values = scores(seed) if callable(scores) else scores
            run = make_run(
                folder / name / f"seed-{seed}", seed=seed, scores=values, **FLAT | arguments
            )
            made.setdefault(name, {})[seed] = read_history(run)
    return made


def column(table, name):
    return [row[table.columns.index(name)] for row in table.rows]


def row(table, *key):
    found = [r for r in table.rows if r[: len(key)] == key]
    assert len(found) == 1, (key, table.rows)
    return dict(zip(table.columns, found[0], strict=True))


def titled(tables, start):
    found = [t for t in tables if t.title.startswith(start)]
    assert len(found) == 1, [t.title for t in tables]
    return found[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return histories(
        tmp_path_factory.mktemp("runs"),
        {
            "random": {
                "strategy": "random",
                "scores": lambda seed: [0.40 + 0.02 * seed, 0.50 + 0.02 * seed, 0.60 + 0.04 * seed],
            },
            # Reaches 0.61, the baseline's mean at the end, half way between budgets 1 and 2.
            "uwe": {"scores": lambda seed: [0.40 + 0.02 * seed, 0.57, 0.65]},
            "entropy": {
                "strategy": "entropy",
                "scores": lambda seed: [0.40 + 0.02 * seed, 0.45 + 0.02 * seed, 0.55],
            },
            "full": {"strategy": "random", "scores": [0.80], "full": True, "seeds": (0,)},
        },
    )


QUESTION = Question("random", primary=("uwe", "random"), permutations=200)


@pytest.fixture(scope="module")
def tables(made):
    return analyse(gather(made, ["full"]), QUESTION)


def near(value, expected):
    """Fake runs reach their scores to about 1e-4, that is 0.01 points."""
    assert value == pytest.approx(expected, abs=0.03)


def test_the_noise_comes_first(tables):
    noise = tables[0]
    assert noise.title == "Noise: random against random"
    first, last = row(noise, "0"), row(noise, "2")
    assert first["runs"] == 2
    near(first["mIoU (%)"], 41)
    near(first["mean gap of two"], 2)
    near(last["sd"], 4 / np.sqrt(2))
    near(last["largest gap"], 4)
    # Along the curve: (0.40 + 2 * 0.50 + 0.60) / 4 and (0.42 + 2 * 0.52 + 0.64) / 4.
    along = row(noise, "mean along the curve")
    near(along["lowest"], 50)
    near(along["highest"], 52.5)
    assert "pairs of these runs differ" in " ".join(noise.notes)


def test_one_run_of_the_baseline_shows_no_noise(made):
    arms = gather({"random": {0: made["random"][0]}})
    noise = analyse(arms, Question("random"))[0]
    assert column(noise, "sd") == [None] * 4
    assert "more seeds" in noise.notes[0]


def test_scores_and_costs_by_budget(tables, made):
    scores = titled(tables, "mIoU by budget")
    assert len(scores.rows) == 3 * 3 + 1
    last = row(scores, "uwe", 2)
    near(last["mIoU (%)"], 65)
    near(last["lead"], 3)
    near(last["of full (%)"], 100 * 65 / 80)
    assert last["mark"] == ""
    assert last["pixels (%)"] == pytest.approx(50)
    assert last["regions"] == 6
    assert last["images"] == pytest.approx(6)
    clicks = [made["uwe"][s].rounds[2].cost.clicks for s in (0, 1)]
    assert last["polygon clicks"] == pytest.approx(sum(clicks) / 2)
    assert row(scores, "entropy", 1)["mark"] == "worse than random"
    assert row(scores, "entropy", 0)["mark"] == ""  # the same seed set, the same network
    assert row(scores, "random", 1)["lead"] is None
    assert row(scores, "full", 0)["pixels (%)"] == pytest.approx(100)


def test_savings_and_areas_worked_out_by_hand(tables):
    saving = titled(tables, "Annotation saving")
    uwe = row(saving, "uwe")
    # The baseline ends at 0.62 and 50 % of the pixels; uwe is at 0.57 at 1/3, at 0.65 at 1/2.
    needed = 100 * (1 / 3 + (0.62 - 0.57) / (0.65 - 0.57) / 6)
    assert uwe["pixels (%) to target"] == pytest.approx(needed, abs=0.05)
    assert uwe["saving (%)"] == pytest.approx(100 * (50 - needed) / 50, abs=0.1)
    ratio = (0.41 + 2 * 0.57 + 0.65) / (0.41 + 2 * 0.51 + 0.62)
    assert uwe["AUCA ratio (pixels (%))"] == pytest.approx(ratio, abs=1e-3)
    assert uwe["AUCA ratio (budgets)"] == pytest.approx(ratio, abs=1e-3)
    near(uwe["final of full (%)"], 100 * 65 / 80)
    assert row(saving, "entropy")["saving (%)"] is None
    assert row(saving, "random")["saving (%)"] == 0
    assert row(saving, "random")["its sd"] == 0
    assert "full" not in column(saving, "arm")


def test_a_target_of_ones_own(made):
    question = Question("random", target=0.5, permutations=100)
    saving = titled(analyse(gather(made), question), "Annotation saving")
    # random at 0.41 and 0.51, uwe at 0.41 and 0.57: costs from 1/6 to 1/3.
    random, uwe = 1 + 0.09 / 0.10, 1 + 0.09 / 0.16
    assert row(saving, "uwe")["saving (%)"] == pytest.approx(100 * (1 - uwe / random), abs=0.1)
    assert "50 % mIoU" in saving.notes[0]


def test_penalties_by_hand(tables):
    means = titled(tables, "Penalty matrix: by means")
    assert means.columns == ("beats", "random", "uwe", "entropy")
    assert [r[1:] for r in means.rows] == [
        (0.0, 0.0, 1.0),
        (1.0, 0.0, 1.0),
        (0.0, 0.0, 0.0),
        (1 / 3, 0.0, 2 / 3),
    ]
    assert titled(tables, "Penalty matrix, t-tests").columns == means.columns


def test_the_primary_contrast_and_how_small_its_p_can_be(tables):
    primary = titled(tables, "Primary contrast")
    assert column(primary, "contrast") == ["uwe - random"] * 2
    # (0 + 2 * 0.07 + 0.05) / 4 at seed 0 and (0 + 2 * 0.05 + 0.01) / 4 at seed 1.
    for value in column(primary, "difference"):
        near(value, 100 * (0.19 + 0.11) / 2 / 4)
    seeds, images = column(primary, "p")
    assert images < 0.03  # better on every image
    assert seeds == 0.5
    assert column(primary, "smallest p") == [0.5, 1 / 201]
    assert tables[1] == primary  # the noise alone comes before it
    assert statement(tables) == primary.notes[0]
    assert statement(tables) == (
        "Primary contrast, declared before the runs: uwe against random, area under the curve over "
        "2 budgets. The difference is +3.75 points of mIoU; over 2 seeds p = 0.500: so few seeds "
        "cannot tell it from chance, since p cannot be below 0.500."
    )


def test_a_small_p_over_images_is_no_evidence_for_a_strategy(tables):
    for title in ("Primary contrast", "Exploratory contrasts"):
        said = " ".join(titled(tables, title).notes)
        assert "not that one strategy is better" in said
        assert "p (seeds) is the evidence for a strategy" in said
    for title in ("mIoU by budget", "Annotation saving", "Penalty matrix: by means"):
        assert titled(tables, title).notes[-1].startswith("Exploratory")


def test_six_seeds_can_tell_a_difference_from_chance(tmp_path):
    made = histories(
        tmp_path,
        {
            "random": {"strategy": "random", "scores": lambda s: [0.4, 0.5 + 0.01 * (s % 2)]},
            "uwe": {"scores": lambda s: [0.4, 0.54]},
            "level": {"scores": lambda s: [0.4, 0.505], "strategy": "entropy"},
        },
        range(6),
    )
    for arm, said in (("uwe", "seldom give that much"), ("level", "cannot be told from chance")):
        question = Question("random", (arm, "random"), permutations=100)
        assert said in statement(analyse(gather(made), question))


def test_a_primary_contrast_without_a_result_says_so(made):
    for arms in ({"random": made["random"]}, {**made, "uwe": {7: made["uwe"][0]}}):
        tables = analyse(gather(arms), QUESTION)
        primary = titled(tables, "Primary contrast")
        assert primary.rows == (("uwe - random", *[None] * 6),)
        assert "There is no result" in statement(tables)
    without = analyse(gather(made, ["full"]), Question("random", permutations=100))
    assert statement(without).startswith("No primary contrast was declared")


def test_a_primary_contrast_of_the_baseline_is_not_exploratory_turned_round(made):
    question = Question("random", ("random", "uwe"), permutations=100)
    tables = analyse(gather(made, ["full"]), question)
    assert column(titled(tables, "Primary"), "contrast") == ["random - uwe"] * 2
    assert column(titled(tables, "Exploratory contrasts"), "contrast") == ["entropy - random"]


def test_contrasts_that_are_not_at_equal_cost_say_so(tmp_path, tables):
    arms = {
        "random": {"strategy": "random", "scores": [0.4, 0.5, 0.6]},
        "uwe": {"scores": [0.4, 0.5, 0.6], "budget": "3img"},
    }
    unequal = analyse(gather(histories(tmp_path, arms)), Question("random", permutations=100))
    assert titled(unequal, "Exploratory contrasts").notes[-1] == (
        "Not at equal cost: the labelled pixels of a budget differ in uwe - random (up to 33.3 %)."
    )
    assert not any("equal cost" in n for t in tables for n in t.notes if "contrast" in t.title)


def test_the_others_are_exploratory_and_corrected(made, tables):
    others = titled(tables, "Exploratory contrasts")
    assert column(others, "contrast") == ["entropy - random"]
    assert "Exploratory" in others.notes[0]
    without = analyse(gather(made, ["full"]), Question("random", permutations=200))
    assert not [t for t in without if t.title.startswith("Primary")]
    both = titled(without, "Exploratory contrasts")
    assert sorted(column(both, "contrast")) == ["entropy - random", "uwe - random"]
    for p, adjusted in zip(column(both, "p (seeds)"), column(both, "Holm (seeds)"), strict=True):
        assert (p, adjusted) == (0.5, 1.0)
    small, large = sorted(column(both, "p (images)"))
    assert sorted(column(both, "Holm (images)")) == [2 * small, max(2 * small, large)]


def test_label_permutation_comes_with_its_warning(made, tables):
    assert not [t for t in tables if t.title.startswith("RALIF")]
    two = {name: made[name] for name in ("random", "uwe")}
    asked = analyse(gather(two), Question("random", permutations=100, label_permutation=True))
    table = titled(asked, "RALIF")
    assert "anti-conservative" in table.notes[0]
    assert "28 %" in table.notes[0]
    # Accuracy on the sampled pixels, by budget, worked out from the files.
    gains = []
    for seed in (0, 1):
        accuracies = []
        for name in ("uwe", "random"):
            kept = [one.evaluation() for one in two[name][seed].rounds]
            accuracies.append([(e.predictions == e.labels)[e.labels != 255].mean() for e in kept])
        first, middle, last = np.subtract(*accuracies)
        gains.append((first + 2 * middle + last) / 4)
    assert table.rows[0][2] == pytest.approx(100 * np.mean(gains))


def test_picks_of_every_arm_and_round(tables, made):
    picks = titled(tables, "Picks")
    assert [r[:2] for r in picks.rows] == [
        (name, number) for name in ("random", "uwe", "entropy") for number in (0, 1)
    ]
    expected = np.mean([made["uwe"][s].rounds[1].picks["pairwise_distance"] for s in (0, 1)])
    assert row(picks, "uwe", 1)["pairwise distance"] == pytest.approx(expected)


def test_picks_that_were_not_measured(tmp_path):
    made = histories(tmp_path, {"random": {"scores": [0.4, 0.5], "measured": False}})
    picks = titled(analyse(gather(made), Question("random", permutations=100)), "Picks")
    assert row(picks, "random", 0)["uncertainty"] is None


def test_picks_without_any_feature(made, tmp_path):
    """The log determinant of features that are all zero is minus infinity."""
    run = make_run(tmp_path / "run", seed=0, scores=(0.4, 0.5), strategy="random", **FLAT)
    picks = run / "rounds" / "000" / "picks.json"
    values = json.loads(picks.read_text()) | {"log_determinant": -math.inf}
    picks.write_text(json.dumps(values))
    table = analyse(gather({"random": {0: read_history(run)}}), QUESTION)[-1]
    assert column(table, "log determinant") == [-math.inf]


def test_pairs_use_only_seeds_that_both_have(tmp_path):
    made = histories(
        tmp_path,
        {
            "random": {"strategy": "random", "scores": lambda s: [0.4, 0.5 + 0.05 * s]},
            "uwe": {"scores": lambda s: [0.4, 0.6 + 0.3 * (s - 1)], "seeds": (1, 2)},
            "entropy": {"scores": [0.4, 0.6], "seeds": (7,), "strategy": "entropy"},
        },
    )
    tables = analyse(gather(made), Question("random", ("uwe", "random"), permutations=100))
    assert row(titled(tables, "Primary"), "uwe - random", "1 seed")["smallest p"] == 1
    near(row(titled(tables, "mIoU by budget"), "uwe", 1)["lead"], 5)
    assert row(titled(tables, "mIoU by budget"), "uwe", 1)["seeds"] == 2
    saving = titled(tables, "Annotation saving")
    assert row(saving, "entropy") == dict.fromkeys(saving.columns) | {"arm": "entropy", "seeds": 0}
    assert not [t for t in tables if t.title.startswith(("Penalty", "Exploratory"))]


def test_arms_of_other_region_sizes_are_compared_over_the_costs_that_both_have(tmp_path):
    arms = {
        "random": {"strategy": "random", "scores": [0.40, 0.50, 0.60]},
        # 64-pixel regions, 24 to an image, at 1.96 images a budget: 47 regions of it.
        "uwe": {"scores": [0.40, 0.55, 0.65], "region": "64", "budget": "1.96img"},
    }
    made = histories(tmp_path, arms)
    tables = analyse(gather(made), Question("random", ("uwe", "random"), permutations=100))
    costs = [r.cost.regions for r in made["uwe"][0].rounds]
    assert costs == [2, 2 + 47, 2 + 94]
    shares = np.array([2, 2 + 47 / 24, 2 + 94 / 24]) / 12
    baseline = np.interp(
        np.append(shares[:2], shares[2]), [2 / 12, 4 / 12, 6 / 12], [0.4, 0.5, 0.6]
    )
    # The baseline bends at 4/12, within the range.
    costs = np.array([shares[0], shares[1], 4 / 12, shares[2]])
    heights = np.interp(costs, shares, [0.40, 0.55, 0.65])
    ratio = np.trapezoid(heights, costs) / np.trapezoid(
        [baseline[0], baseline[1], 0.5, baseline[2]], costs
    )
    found = row(titled(tables, "Annotation saving"), "uwe")["AUCA ratio (pixels (%))"]
    assert found == pytest.approx(ratio, abs=1e-3)
    # On an axis of regions the same runs share from 2 to 6 of them.
    by_regions = analyse(gather(made), Question("random", axis="regions", permutations=100))
    own = np.interp([2, 6], [2, 49], [0.40, 0.55]).mean()
    found = row(titled(by_regions, "Annotation saving"), "uwe")["AUCA ratio (regions)"]
    assert found == pytest.approx(own / 0.5, abs=1e-3)


def test_the_order_of_arms_and_seeds_changes_nothing(made, tables):
    turned = {name: dict(reversed(made[name].items())) for name in reversed(made)}
    other = analyse(gather(turned, ["full"]), QUESTION)
    assert [t.title for t in other] == [t.title for t in tables]
    for one, two in zip(tables, other, strict=True):
        assert one.notes == two.notes
        if not one.title.startswith("Penalty"):  # its columns are turned round too
            assert sorted(one.rows, key=str) == sorted(two.rows, key=str), one.title
    for title in ("Penalty matrix: by means", "Penalty matrix, t-tests"):
        one, two = titled(tables, title), titled(other, title)
        for a, b in itertools.product(one.columns[1:], repeat=2):
            assert row(one, a)[b] == row(two, a)[b]


def test_runs_that_stopped_at_their_target(tmp_path):
    made = histories(
        tmp_path,
        {
            "random": {"strategy": "random", "scores": [0.4, 0.5, 0.6]},
            "uwe": {"scores": lambda s: [0.4, 0.6, 0.7][: 2 + s]},
        },
    )
    tables = analyse(gather(made), Question("random", ("uwe", "random"), permutations=100))
    assert row(titled(tables, "mIoU by budget"), "uwe", 2)["seeds"] == 1
    near(column(titled(tables, "Primary"), "difference")[0], 5)
    assert titled(tables, "Primary").notes[-1] == (
        "Some runs ended before others; only what all have is compared in "
        "uwe - random (the first 1 budget)."
    )


def test_no_run_of_the_baseline(made):
    with pytest.raises(SegalError, match="no run of the baseline 'random'") as caught:
        analyse(gather({"random": {}, "uwe": made["uwe"]}), Question("random"))
    assert "uwe" in caught.value.got


def test_clicks_that_are_not_known(tmp_path):
    made = histories(tmp_path, {"random": {"scores": [0.4, 0.5], "clicks": False}})
    with pytest.raises(SegalError, match="clicks are not known"):
        analyse(gather(made), Question("random", axis="clicks", permutations=100))
    tables = analyse(gather(made), Question("random", permutations=100))
    assert row(titled(tables, "mIoU by budget"), "random", 1)["polygon clicks"] is None


def test_other_test_images_are_refused(made, tmp_path):
    one = histories(tmp_path, {"uwe": {"scores": [0.4, 0.5, 0.6]}})
    for number in range(3):
        file = one["uwe"][0].rounds[number].folder / "evaluation.npz"
        stored = dict(np.load(file))
        stored["images"][0] = "test/other.png"
        np.savez(file, **stored)
    with pytest.raises(SegalError, match="other images or classes"):
        analyse(gather({"random": made["random"], **one}), Question("random", permutations=100))


def test_a_score_that_is_not_defined(made):
    history = made["random"][0]
    curve = Curve("random", 0, history)
    rounds = [*history.rounds]
    object.__setattr__(rounds[1], "metrics", {"test": {"miou": None}})
    broken = Curve("random", 0, type(history)(**vars(history) | {"rounds": rounds}))
    assert len(curve) == 3
    with pytest.raises(SegalError, match="no mIoU in round 1"):
        _ = broken.scores


def test_tables_as_text_and_files(tmp_path):
    table = Table.of(
        "Noise: a, b", ["arm", "n", "value"], [["x", 12345, 0.123456], ["long", 1, float("nan")]]
    )
    assert table.as_text().splitlines()[2:] == [
        "arm        n  value",
        "x     12,345  0.123",
        "long       1      \N{EN DASH}",
    ]
    assert Table.from_dict(table.as_dict()) == table
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "09-old.csv").touch()
    files = write_tables([table], tmp_path / "tables")
    assert [f.name for f in files] == ["01-noise.csv"]
    assert sorted((tmp_path / "tables").iterdir()) == files
    with files[0].open() as file:
        assert list(csv.reader(file))[1:] == [["x", "12345", "0.123456"], ["long", "1", ""]]
    with pytest.raises(ValueError, match="rows of 3 cells"):
        Table.of("t", ["a", "b", "c"], [["x"]])
