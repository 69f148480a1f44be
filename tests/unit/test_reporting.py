"""What a report says, against what the runs were made to come to."""

import csv
import io
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from sklearn.decomposition import PCA

from segal.errors import SegalError
from segal.jobs.comparing.report import write_report
from segal.reporting import charts, details, embedding, pictures, results
from segal.reporting.arms import check_axis, gather
from segal.reporting.tables import Table, any_cell, heat_colours, number, words
from segal.runs.history import read_history
from tests.fake_runs import WIDTH, make_comparison, make_run


def arms_of(folder, arms, seeds=(0, 1)):
    """Arms of a comparison that is made for the purpose."""
    make_comparison(folder, arms, seeds)
    named = {}
    for run in sorted((folder / "runs").glob("*/*")):
        named.setdefault(run.parent.name, []).append(read_history(run))
    return gather(named)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Random, one above it, one below it; each seed a point above the last; full supervision."""
    return arms_of(
        tmp_path_factory.mktemp("three"),
        {
            "random": {"strategy": "random", "scores": (0.4, 0.5, 0.56), "lift": 0.01},
            "better": {"scores": (0.4, 0.53, 0.6), "lift": 0.01, "absent": ("sign",)},
            "worse": {"strategy": "entropy", "scores": (0.4, 0.5001, 0.55), "lift": 0.01},
            "full": {"full": True, "scores": (0.7,), "lift": 0.01},
        },
    )


def column(table, name):
    place = table.columns.index(name)
    return {row[0].text: row[place] for row in table.rows}


def test_arms_come_by_their_last_score_and_full_supervision_last(three):
    assert [arm.name for arm in three] == ["better", "random", "worse", "full"]
    assert [arm.full for arm in three] == [False, False, False, True]
    assert three[0].seeds == (0, 1)


def test_runs_without_names_are_grouped_by_what_is_compared(tmp_path):
    runs = [
        make_run(tmp_path / f"{i}", measured=False, scores=(0.4, 0.5), **given)
        for i, given in enumerate(
            [
                {"seed": 1},
                {"seed": 0},
                {"strategy": {"name": "uwe", "tau": 0.1}},
                {"region": "image"},
                {"strategy": {"name": "uwe", "uncertainty": "bvsb"}},
            ]
        )
    ]
    arms = gather([read_history(run) for run in runs])
    seeds = {arm.name: arm.seeds for arm in arms}
    assert seeds == {
        "uwe · 64 px": (0, 1),
        "uwe tau=0.1 · 64 px": (0,),
        "uwe · images": (0,),
        "uwe · 64 px (2)": (0,),
    }


def test_two_runs_of_one_seed_are_refused(tmp_path):
    runs = [make_run(tmp_path / n, measured=False, scores=(0.4,)) for n in ("a", "b")]
    with pytest.raises(SegalError, match="two runs with seed 0"):
        gather([read_history(run) for run in runs])


def test_the_headline_names_the_arm_ahead_and_its_lead(three):
    lines = results.headline(three, "share")
    # Two seeds, a point apart: means are half a point above the first seed's score.
    assert lines[0].startswith("better is ahead at 36.1 % of the pool's pixels: mIoU 60.5 %, 4.0 ")
    assert "over random" in lines[0]
    assert "up to 1.0 points apart (2 seeds)" in lines[-1]
    assert "larger than that" in lines[-1]


def test_a_lead_within_the_spread_may_be_chance(tmp_path):
    arms = arms_of(
        tmp_path,
        {
            "random": {"strategy": "random", "scores": (0.4, 0.5), "lift": 0.03},
            "uwe": {"scores": (0.4, 0.51), "lift": 0.03},
        },
    )
    lines = results.headline(arms, "share")
    assert "1.0 points over random" in lines[0]
    assert "within that spread, and may be chance" in lines[-1]


def test_arms_with_more_seeds_are_compared_at_those_that_all_have(tmp_path):
    """Seed n lies n points higher: an arm with more seeds would be ahead by them alone."""
    better = {"scores": (0.4, 0.53, 0.6), "lift": 0.01, "measured": False}
    random = {"strategy": "random", "scores": (0.4, 0.5, 0.58), "lift": 0.01, "measured": False}
    make_comparison(tmp_path, {"better": better}, (0, 1))
    make_comparison(tmp_path, {"random": random}, range(6))
    named = {
        name: [read_history(run) for run in (tmp_path / "runs" / name).iterdir()]
        for name in ("better", "random")
    }
    arms = gather(named)
    lines = results.headline(arms, "share")
    assert lines[0].startswith("better is ahead at")
    assert "mIoU 60.5 %, 2.0 points over random, the next." in lines[0]
    assert lines[1] == (
        "Seed by seed, better is 2.0 to 2.0 points over random, at the 2 seeds that all arms have."
    )
    table = results.standing_table(arms, "share")
    assert column(table, "over random (points)")["better"].text == "+2.0"
    paired = [arm.at((0, 1)) for arm in arms]
    at_both = results.standing_table(paired, "share")
    for name in ("area ratio", "saving (%)"):
        assert column(table, name)["better"] == column(at_both, name)["better"]
    assert column(table, "area ratio")["better"].value > 1.02
    assert any("other seeds" in note for note in table.notes)
    assert not any(cell.mark for row in results.budget_table(arms, "share").rows for cell in row)
    matrix, _ = results.penalty_table(arms)
    assert column(matrix, "random")["better"].value == 1
    assert column(matrix, "better")["random"].value == 0


def test_arms_that_are_level_are_not_ahead(tmp_path):
    arms = arms_of(tmp_path, {name: {"measured": False} for name in ("one", "other")}, (0,))
    assert results.headline(arms, "share")[0].startswith("one and other are level at")


def test_one_seed_proves_nothing(tmp_path):
    arms = arms_of(tmp_path, {"random": {"strategy": "random"}, "uwe": {}}, seeds=(0,))
    assert "One seed only of random and uwe" in results.headline(arms, "share")[-1]
    table = results.standing_table(arms, "share")
    assert "of full (%)" not in table.columns and "over random (points)" in table.columns


def test_what_is_not_known_of_any_arm_takes_no_column(tmp_path):
    table = results.standing_table(arms_of(tmp_path, {"uwe": {}}), "share")
    assert table.columns == ("arm", "seeds", "mIoU (%) ± sd")
    assert not any("andom" in note for note in table.notes)


def test_equal_cost_is_the_highest_that_all_reach(tmp_path):
    arms = arms_of(
        tmp_path,
        {
            "long": {"scores": (0.4, 0.5, 0.6), "budget": "10%"},
            "short": {"strategy": "random", "scores": (0.4, 0.5), "budget": "10%"},
        },
    )
    at = results.standing(arms, "share")
    short = next(arm for arm in arms if arm.name == "short")
    assert at.cost == pytest.approx(short.costs("share")[:, -1].min())
    np.testing.assert_allclose(at.scores["long"], 50, atol=0.02)


def test_region_counts_without_common_ground_give_no_winner(tmp_path):
    arms = arms_of(
        tmp_path,
        {"regions": {"scores": (0.4, 0.5)}, "images": {"region": "image", "scores": (0.4, 0.5)}},
        seeds=(0,),
    )
    # Image-level purchases are 2 to 3, region-level ones 2 to 30: they do overlap, at 3.
    assert results.standing(arms, "regions").cost == 3
    assert results.standing(arms, "share") is not None


def test_random_is_beaten_by_the_difference_that_was_made(three):
    table = results.standing_table(three, "share")
    leads = column(table, "over random (points)")
    assert leads["better"].value == pytest.approx(4.0, abs=0.03)
    assert leads["worse"].value == pytest.approx(-1.0, abs=0.03)
    assert leads["worse"].mark == "worse than random" and not leads["better"].mark
    assert leads["random"].text == "–"
    assert column(table, "of full (%)")["better"].value == pytest.approx(100 * 60.5 / 70.5, abs=0.1)
    # Random's final 56.5 is crossed by better between 53.5 and 60.5, 3/7 of the second budget.
    costs = next(arm for arm in three if arm.name == "random").costs("share")[0]
    crossing = costs[1] + (costs[2] - costs[1]) * 3 / 7
    saving = 100 * (costs[2] - crossing) / costs[2]
    assert column(table, "saving (%)")["better"].value == pytest.approx(saving, abs=0.2)


def test_budgets_show_mean_and_sd_and_mark_what_is_below_random(three):
    table = results.budget_table(three, "share")
    rows = {row[0].text: row for row in table.rows}
    assert rows["better"][3].text == "53.5 ± 0.7"
    assert rows["better"][3].sd == pytest.approx(np.std([53, 54], ddof=1), abs=0.02)
    assert [cell.mark for cell in rows["worse"][2:]] == ["", "", "worse than random"]
    assert not any(cell.mark for cell in rows["better"])
    assert rows["full"][3].text == "–"


def test_random_is_of_the_same_region_size_where_there_is_one(tmp_path):
    arms = arms_of(
        tmp_path,
        {
            "random": {"strategy": "random"},
            "random-images": {"strategy": "random", "region": "image"},
            "uwe-images": {"region": "image"},
            "uwe-128": {"region": "128"},
        },
        seeds=(0,),
    )
    found = {arm.name: results.baseline_of(arm, arms).name for arm in arms}
    assert found["uwe-images"] == "random-images"
    assert found["random"] == "random"


def test_the_penalty_matrix_counts_budgets_after_the_seed_set(three):
    table, missing = results.penalty_table(three)
    assert not missing
    rows = {row[0].text: [cell.value for cell in row[1:]] for row in table.rows}
    assert table.columns[1:] == ("better", "random", "worse")
    assert rows["better"] == [0, 1, 1]
    assert rows["random"][0] == 0 and rows["random"][2] in (0.5, 1)  # 50.00 against 50.01
    assert rows["column mean Φ"][0] == 0


def test_one_arm_has_no_penalty_matrix(tmp_path):
    table, missing = results.penalty_table(arms_of(tmp_path, {"uwe": {}}, seeds=(0,)))
    assert table is None and "two arms" in missing


def test_classes_are_those_of_the_evaluation_and_absent_ones_say_so(three):
    last, *by_round = details.class_tables(three)
    assert "Up to 1 of 6 classes are absent" in last.notes[0]
    cells = column(last, "better")
    assert cells["sign"].text == "absent"
    # In the other arms it is present: their mIoU is of another number of classes.
    assert "Not as many are absent everywhere" in last.notes[0]
    run = three[0].runs
    expected = np.mean([100 * r.rounds[-1].evaluation().metrics.iou["road"] for r in run])
    assert cells["road"].value == pytest.approx(expected)
    assert column(last, "random")["sign"].is_number
    assert [table.title for table in by_round] == ["better", "random", "worse"]


def test_picks_are_described_by_whatever_numbers_there_are(three):
    statistics = details.pick_statistics(three)
    assert [s.name for s in statistics] == [
        *("uncertainty", "magnitude", "pairwise_distance", "log_determinant")
    ]
    values = statistics[0].values
    assert set(values) == {"better", "random", "worse"}
    assert values["worse"].shape == (2, 3) and np.isnan(values["worse"][:, 2]).all()
    # Picks by entropy have a higher one than random picks of the same candidates.
    assert (values["worse"][:, 0] > values["random"][:, 0]).all()
    stored = three[0].runs[1].rounds[1].picks["uncertainty"]
    assert values["better"][1, 1] == stored


def test_costs_grow_by_what_was_bought(three):
    rows = [row for row in details.cost_table(three).rows if row[0].text == "better"]
    run = three[0].runs[0]
    bought = [len(r.bought) for r in run.rounds]
    counts = [row[2].value for row in rows]
    assert np.diff(counts).tolist() == bought[:2]
    assert rows[0][4].value == pytest.approx(100 * 2 / 12)


def test_seconds_stand_in_the_order_of_the_phases(three):
    table = details.seconds_table(three)
    phases = ("seed", "train", "evaluate", "scan", "select", "inspect", "buy")
    assert table.columns == ("arm", *phases, "all")
    assert column(table, "inspect")["better"].value == pytest.approx(0.2)


def test_notes_name_arm_and_seed_and_tell_of_missing_rounds(tmp_path):
    run = make_run(tmp_path / "a", notes=["<b>short</b>"], scores=(0.4,), measured=False)
    other = make_run(
        tmp_path / "b", seed=1, scores=(0.4,), measured=False, settings={"budgets": ["5%", "5%"]}
    )
    own = details.notes_of(gather({"a": [read_history(run)]}))
    assert own == ["a, seed 0: <b>short</b>", "a: one seed only, so there is no spread."]
    late = details.notes_of(gather({"b": [read_history(other)]}))
    assert late[0] == "b, seed 1: 1 of 3 rounds are evaluated."


def test_arms_of_the_same_settings_are_flagged(tmp_path):
    arms = {name: {"strategy": "uwe", "measured": False} for name in ("ours", "theirs")}
    arms["other"] = {"strategy": "entropy", "measured": False}
    (note,) = [n for n in details.notes_of(arms_of(tmp_path, arms)) if "settings" in n]
    assert note.startswith("ours and theirs are the same settings under 2 names")


def answer_one_class(run):
    """Makes a run one whose networks answer the first class only, from its second round on."""
    for file in sorted(run.glob("rounds/*/metrics.json"))[1:]:
        metrics = json.loads(file.read_text())
        for split in ("validation", "test"):
            rows = [sum(row) for row in metrics[split]["confusion"]]
            metrics[split]["confusion"] = [[n] + [0] * (len(rows) - 1) for n in rows]
        file.write_text(json.dumps(metrics))
    return run


def test_networks_of_one_answer_come_first(tmp_path):
    runs = [make_run(tmp_path / str(i), seed=i, measured=False) for i in range(2)]
    assert results.one_class_line(gather({"uwe": [read_history(run) for run in runs]})) is None
    answer_one_class(runs[1])
    other = make_run(tmp_path / "random", strategy="random", measured=False)
    arms = gather({"uwe": [read_history(run) for run in runs], "random": [read_history(other)]})
    said = results.one_class_line(arms)
    assert said.startswith("2 of 9 networks answer one class on more than 99.9 % of the pixels")
    assert "(uwe)" in said
    page = write_report([runs[1]], tmp_path / "r.html").read_text()
    assert page.index("2 of 3 networks answer one class") < page.index("reaches a mIoU of")


def test_learning_curves_show_two_points_at_least(tmp_path, monkeypatch):
    seen, draw = [], charts.svg
    monkeypatch.setattr(charts, "svg", lambda c, *size: seen.append(c) or draw(c, *size))
    run = make_run(tmp_path / "a", scores=(0.31, 0.3102, 0.3104), measured=False)
    write_report([run], tmp_path / "r.html")
    assert {c.least_span for c in seen if c.slug == "learning-curves"} == {2.0}
    assert {c.least_span for c in seen if c.slug != "learning-curves"} <= {0.0}


def test_curves_within_the_noise_of_seeds_do_not_fill_the_axis(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(charts, "svg", lambda chart, *size: "<svg></svg>")
    monkeypatch.setattr(charts, "png", lambda chart: seen.append(chart) or b"")
    for arm in (1, 2):
        for seed, lift in enumerate((-0.04, 0.0, 0.04)):
            scores = [0.5 + lift + 0.001 * (arm + n) for n in range(2)]
            make_run(
                tmp_path / f"{arm}-{seed}", strategy={"name": "uwe", "tau": arm}, seed=seed,
                scores=scores, measured=False,
            )  # fmt: skip
    write_report(sorted(tmp_path.iterdir()), tmp_path / "r.html")
    (curves,) = [chart for chart in seen if chart.slug == "learning-curves"]
    assert curves.least_span == pytest.approx(4 * 4.0, rel=0.05)  # the seeds' sd is four points


def test_what_networks_never_predict_follows_the_result(tmp_path):
    runs = [make_run(tmp_path / str(i), seed=i, measured=False) for i in range(2)]
    other = make_run(tmp_path / "random", strategy="random", measured=False)
    arms = gather({"uwe": [read_history(run) for run in runs], "random": [read_history(other)]})
    assert results.never_line(arms) is None
    for run, names in ((runs[0], ("sign", "car")), (other, ("sign",))):
        for file in run.glob("rounds/*/metrics.json"):
            metrics = json.loads(file.read_text())
            confusion = np.array(metrics["test"]["confusion"])
            for name in names:
                column = list(metrics["test"]["iou"]).index(name)
                confusion[:, 0] += confusion[:, column]
                confusion[:, column] = 0
            metrics["test"]["confusion"] = confusion.tolist()
            file.write_text(json.dumps(metrics))
    arms = gather({"uwe": [read_history(run) for run in runs], "random": [read_history(other)]})
    assert results.never_line(arms) == (
        "In the last round, classes of test are never predicted: 'sign' by 2 of 3 networks "
        "(random, uwe); 'car' by 1 of 3 networks (uwe)."
    )
    page = write_report([runs[0]], tmp_path / "r.html").read_text()
    assert page.index("reaches a mIoU of") < page.index("are never predicted: ")


def test_clicks_that_are_not_known_are_an_error(tmp_path):
    run = read_history(make_run(tmp_path / "a", clicks=False, measured=False, scores=(0.4,)))
    arms = gather([run])
    check_axis(arms, "pixels")
    with pytest.raises(SegalError, match="axis clicks: not known"):
        check_axis(arms, "clicks")


def test_tables_of_a_comparison_are_taken_as_they_are():
    given = [
        {"title": "T", "columns": ["a", "b"], "rows": [["x", 0.25], ["y", None]], "notes": "n"},
        {"title": "ragged", "columns": ["a"], "rows": [[1, 2], [3]]},
        "no table",
    ]
    one, two = results.given_tables(given)
    assert one.title == "T" and one.notes == ("n",)
    assert [[cell.text for cell in row] for row in one.rows] == [["x", "0.250"], ["y", "–"]]
    assert [[cell.value for cell in row] for row in two.rows] == [[3]]
    assert results.given_tables({"tables": 1}) == []


# Tables


def test_csv_keeps_full_precision_and_marks_apart():
    cells = (words('a,"b"'), number(1 / 3, 1, mark="worse than random", sd=0.125))
    text = Table("t", "T", ("name", "v"), (cells, (words("c"), number(None)))).as_csv()
    rows = list(csv.reader(io.StringIO(text)))
    assert rows == [
        ["name", "v", "v: sd", "v: note"],
        ['a,"b"', str(1 / 3), "0.125", "worse than random"],
        ["c", "", "", ""],
    ]


def test_texts_in_csv_are_no_formulas():
    rows = [(words(text), number(-1.5)) for text in ("=1+1", "@x", "-2+3", "+1", "\tx", "a=1", "")]
    table = Table("x", "x", ("class", "=IoU"), tuple(rows))
    lines = list(csv.reader(io.StringIO(table.as_csv())))
    assert lines[0] == ["class", "'=IoU"]
    assert [line[0] for line in lines[1:]] == ["'=1+1", "'@x", "'-2+3", "'+1", "'\tx", "a=1", ""]
    assert {line[1] for line in lines[1:]} == {"-1.5"}
    assert results.given_tables([{"columns": ["p"], "rows": [[None]]}])[0].as_csv() == 'p\n""\n'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((9.999e-5, "0.00010"), (1e-6, "0.0000010"), (0.0019531, "0.0020"), (0.0312, "0.031")),
        *((1.0, "1.000"), (0.0, "0.000"), (1e-17, "0.000"), (47.456, "47.46"), (1234567.8, None)),
        *((-0.00123, "\N{MINUS SIGN}0.0012"), (1e20, None)),
    ],
)
def test_small_and_large_numbers_for_people(value, text):
    shown = any_cell(value).text
    assert shown == (text or f"{value:,.1f}")
    assert "e" not in shown


def test_numbers_for_people():
    assert number(-1.25, 1, signed=True).text == "\N{MINUS SIGN}1.2"
    assert number(1234567, 0).text == "1,234,567"
    assert number(float("nan")).text == "–"
    assert any_cell(True).text == "true" and any_cell(7).text == "7"


@pytest.mark.parametrize("share", np.linspace(-0.1, 1.1, 61))
def test_text_on_the_colour_scale_can_be_read(share):
    """Against the definition of contrast in WCAG 2."""
    ground, text = heat_colours(float(share))
    rgb = [int(v) / 255 for v in re.findall(r"\d+", ground)]

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    light, dark = sorted([luminance(rgb), luminance([float(text == "#fff")] * 3)], reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


# Charts


def test_no_two_of_many_arms_look_alike():
    names = [f"arm {i}" for i in range(20)]
    looks = charts.looks(names, random=["arm 3", "arm 9"])
    assert len({(x.colour, x.marker, x.dash) for x in looks.values()}) == 20
    assert looks["arm 3"].colour == looks["arm 9"].colour
    shared = {looks[n].colour for n in names if n not in ("arm 3", "arm 9")}
    assert looks["arm 3"].colour not in shared


def chart(name="uwe <1>", slug="c"):
    line = charts.Line(
        name,
        charts.Look("#0072B2", "o", "solid"),
        *(np.array(v, float) for v in ([1, 2], [40, 50], [39, 48], [41, 52])),
    )
    return charts.Chart(slug, "T & <t>", "x <x>", "y & y", [line], {"full <$a$>": 60.0})


def test_a_drawing_within_the_page_has_no_address_and_ids_of_its_own():
    drawn = charts.svg(chart(), 300, 200)
    assert drawn.startswith("<svg") and drawn.rstrip().endswith("</svg>")
    assert "http" not in drawn and "<script" not in drawn
    assert "full &lt;$a$&gt; 60.0" in drawn and "x &lt;x&gt;" in drawn
    other = charts.svg(chart(slug="d"), 300, 200)
    ids = [set(re.findall(r'\sid="([^"]+)"', text)) for text in (drawn, other)]
    assert ids[0] and not ids[0] & ids[1]
    used = set(re.findall(r'href="#([^"]+)"', drawn)) | set(re.findall(r"url\(#([^)]+)\)", drawn))
    assert used <= ids[0]


def test_drawings_are_the_same_every_time():
    assert charts.svg(chart(), 300, 200) == charts.svg(chart(), 300, 200)
    assert charts.png(chart()) == charts.png(chart())


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.9])
def test_a_curve_of_noise_is_not_stretched_over_the_axis(spread):
    flat = charts.Line(
        "uwe",
        charts.Look("#0072B2", "o", "solid"),
        *(np.array(v, float) for v in ([1, 2], [31, 31 + spread], [31, 31], [31, 31 + spread])),
    )
    drawn = charts.Chart("c", "t", "x", "y", [flat], {}, least_span=2.0)
    low, high = charts._draw(drawn, 300, 200, legend=False).axes[0].get_ylim()
    assert 2 - 1e-9 <= high - low <= 4
    assert (low + high) / 2 == pytest.approx(31 + spread / 2, abs=0.01)
    wide = charts._draw(chart(), 300, 200, legend=False).axes[0].get_ylim()
    same = charts._draw(replace(chart(), least_span=2.0), 300, 200, legend=False).axes[0].get_ylim()
    assert same == wide


def test_arm_names_of_any_kind_can_be_drawn():
    decoded = cv2.imdecode(np.frombuffer(charts.png(chart("_$\\x$\n\x00<b>")), np.uint8), 1)
    assert decoded.std() > 1


# Maps


def test_pca_is_that_of_the_covariance_matrix():
    features = np.random.default_rng(0).normal(size=(60, 7)) * np.arange(1, 8)
    places = embedding.plane(features, "pca")
    centred = features - features.mean(0)
    values, vectors = np.linalg.eigh(np.cov(centred.T))
    expected = centred @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-9)
    np.testing.assert_allclose(places.var(0, ddof=1), values[::-1][:2])
    assert PCA(2).fit(features).n_components_ == 2


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_maps_are_the_same_every_time_and_keep_clusters_apart(method):
    rng = np.random.default_rng(1)
    features = np.concatenate([rng.normal(c, 0.1, (40, 5)) for c in (0, 5)])
    places = embedding.plane(features, method)
    np.testing.assert_array_equal(places, embedding.plane(features, method))
    one, other = places[:40], places[40:]
    apart = np.linalg.norm(one.mean(0) - other.mean(0))
    assert apart > 2 * max(one.std(), other.std())


@pytest.mark.parametrize("features", [np.ones((5, 1)), np.zeros((6, 3)), np.eye(3)])
def test_maps_of_little_or_equal_features(features):
    for method in embedding.METHODS:
        places = embedding.plane(features, method)
        assert places.shape == (len(features), 2) and np.isfinite(places).all()


def test_arms_of_one_network_share_a_map_and_picks_keep_their_order(three):
    (drawn,) = embedding.embedding_maps(three, "pca")
    assert set(drawn.picks) == {"better", "random", "worse"}
    assert drawn.round == 0 and drawn.seed == 0 and drawn.shown == drawn.total
    bought = three[0].runs[0].rounds[0].bought
    rows = drawn.picks["better"]
    assert len(rows) == len(bought) == len(set(rows.tolist()))
    # Rows are in candidate order: by image, then y, then x.
    keys = sorted((p.image, p.box[1], p.box[0]) for p in bought)
    by_rank = [keys.index((p.image, p.box[1], p.box[0])) for p in bought]
    assert np.argsort(np.argsort(rows)).tolist() == by_rank


def test_other_candidates_get_a_map_of_their_own(tmp_path):
    arms = arms_of(tmp_path, {"a": {}, "b": {"region": "image"}}, seeds=(0,))
    maps = embedding.embedding_maps(arms, "pca")
    assert sorted(m.region for m in maps) == ["64", "image"]


def test_without_features_there_is_no_map(tmp_path):
    arms = arms_of(tmp_path, {"a": {"measured": False}}, seeds=(0,))
    assert embedding.embedding_maps(arms, "pca") == []


def test_large_tables_are_thinned_but_picks_stay(tmp_path, monkeypatch):
    monkeypatch.setitem(embedding._MOST_POINTS, "pca", 100)
    arms = arms_of(tmp_path, {"a": {}, "b": {"strategy": "random"}}, seeds=(0,))
    (drawn,) = embedding.embedding_maps(arms, "pca")
    assert drawn.total > 200 and drawn.shown < 160
    assert all(len(rows) == 28 for rows in drawn.picks.values())


# Pictures


def test_overlays_are_those_of_the_first_and_the_last_purchase(three):
    shown, note = pictures.overlays(three[:2])
    assert not note
    assert {(o.arm, o.round) for o in shown} == {
        (a, r) for a in ("better", "random") for r in (0, 1)
    }
    decoded = cv2.imdecode(np.frombuffer(shown[0].jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape[:2] == (shown[0].height, shown[0].width)
    assert shown[0].width == WIDTH // 2


def test_overlays_that_are_broken_large_or_elsewhere_are_left_out(tmp_path, monkeypatch):
    run = make_run(tmp_path / "a", scores=(0.4, 0.5))
    folder = run / "rounds" / "000" / "overlays"
    first, second = sorted(folder.iterdir())
    secret = tmp_path / "secret.png"
    first.rename(secret)
    first.symlink_to(secret)
    arms = gather([read_history(run)])
    shown, note = pictures.overlays(arms)
    assert [o.image for o in shown] == [second.stem.partition("_")[2]] and not note
    second.write_bytes(b"\x89PNG broken")
    assert pictures.overlays(arms)[0] == []
    assert "1 more" in pictures.overlays(arms)[1]
    first.unlink()
    secret.rename(first)
    monkeypatch.setattr(pictures, "MOST_BYTES", 100)
    shown, note = pictures.overlays(arms)
    assert shown == [] and "2 more" in note
