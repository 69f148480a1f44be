"""Tables of what the arms reached: noise, scores by budget, savings, penalties, picks."""

from collections.abc import Sequence
from functools import partial
from itertools import combinations

import numpy as np

from segal.comparison.arms import (
    Arm,
    Curve,
    Floats,
    axis_titles,
    common_seeds,
    length,
    mean_costs,
    mean_height,
    rises,
    scores,
)
from segal.comparison.contrasts import image_test
from segal.comparison.tables import Cell, Table
from segal.functional.curves import annotation_saving, area_ratio, cost_at
from segal.functional.penalty import (
    column_means,
    pairs_of,
    penalties_by_mean,
    penalties_by_t_test,
    penalties_of_pairs,
)
from segal.reporting.protocol import alike_notes, settings_of_arm
from segal.runs.history import Axis
from segal.tasks.judging import ONE_CLASS, one_answer

_LEVEL = 0.05
_ALONG = "mean along the curve"
_CELL = (
    "Cell: share of the budgets at which the arm of the row beats that of the column, at the seeds "
    "that both have; the seed set is left out. Last row: means of the columns, lowest is best."
)
_UNCORRECTED = (
    f"Beats: p < {_LEVEL} in a two-sided t-test over seeds, not corrected for the number of tests: "
    "of many cells some are not zero by chance."
)


def noise_table(baseline: Arm, permutations: int) -> Table:
    """The baseline against itself: how far apart runs are that differ by their seed alone."""
    curves = list(baseline.curves.values())
    rounds = length(curves)
    reached = 100 * scores(curves, rounds)
    shares = mean_costs(curves, "share", rounds)
    along = [mean_height(c.costs("share")[:rounds], 100 * c.scores[:rounds]) for c in curves]
    rows = [_spread(str(i), float(shares[i]), reached[:, i]) for i in range(rounds)]
    if None not in along:
        rows.append(_spread(_ALONG, None, np.array(along, np.float64)))
    return Table.of(
        f"Noise: {baseline.name} against {baseline.name}",
        [
            *("budget", axis_titles(baseline.metric)["share"], "runs"),
            *(f"{baseline.metric.title} (%)", "sd", "lowest", "highest"),
            *("mean gap of two", "largest gap"),
        ],
        rows,
        _noise_notes(curves, permutations),
    )


def _spread(name: str, share: float | None, values: Floats) -> list[Cell]:
    gaps = [abs(a - b) for a, b in combinations(values.tolist(), 2)]
    return [
        *(name, share, len(values), float(values.mean())),
        float(values.std(ddof=1)) if len(values) > 1 else None,
        *(float(values.min()), float(values.max())),
        *((sum(gaps) / len(gaps), max(gaps)) if gaps else (None, None)),
    ]


def _noise_notes(curves: Sequence[Curve], permutations: int) -> list[str]:
    if len(curves) < 2:
        return ["One run alone shows no noise; give more seeds."]
    tests = [image_test(a, b, permutations) for a, b in combinations(curves, 2)]
    small = [test for test in tests if test is not None and test.p < _LEVEL]
    return [
        "Differences between arms that are no larger than these gaps are noise.",
        f"{len(small)} of {len(tests)} pairs of these runs differ at p < {_LEVEL} in the test over "
        "images: that test speaks of trained networks, not of strategies.",
    ]


def score_table(arms: Sequence[Arm], baseline: Arm) -> Table:
    """Score and cost by arm and budget, means over the runs that are there."""
    metric = baseline.metric
    axes = axis_titles(metric)
    full = [a for a in arms if a.full]
    supervised = [float(c.scores[-1]) for a in full for c in a.curves.values()]
    top = sum(supervised) / len(supervised) if supervised else None
    rows: list[list[Cell]] = []
    for arm in arms:
        curves = list(arm.curves.values())
        for budget in range(max(map(len, curves))):
            there = [c for c in curves if len(c) > budget]
            values = np.array([c.scores[budget] for c in there])
            lead = None if arm.full or arm is baseline else _lead(arm, baseline, budget)
            spent = [[c.history.rounds[budget].spent(axis) for c in there] for axis in axes]
            means = [None if None in s else _plain(_mean([v or 0 for v in s])) for s in spent]
            rows.append(
                [
                    *(arm.name, budget, len(there), 100 * float(values.mean())),
                    100 * float(values.std(ddof=1)) if len(there) > 1 else None,
                    *(lead, f"worse than {baseline.name}" if lead is not None and lead < 0 else ""),
                    None if not top else 100 * float(values.mean()) / top,
                    *means,
                ]
            )
    notes = [
        f"Lead: over {baseline.name}, in points of {metric.title}, at the seeds that both have.",
        "sd: over seeds. Costs: means over seeds, of all that is labelled.",
        *alike_notes({a.name: settings_of_arm(c.history) for a in arms for c in a.curves.values()}),
        *_one_class_notes(arms),
    ]
    return Table.of(
        f"{metric.heading} by budget",
        [
            *("arm", "budget", "seeds", f"{metric.title} (%)", "sd", "lead", "mark", "of full (%)"),
            *axes.values(),
        ],
        rows,
        notes,
    )


def _one_class_notes(arms: Sequence[Arm]) -> list[str]:
    """Names arms whose networks answer one class only."""
    named = []
    for arm in arms:
        rounds = [(r, c.history) for c in arm.curves.values() for r in c.history.rounds]
        found = [one_answer(r.metrics[history.report_split]) for r, history in rounds]
        if many := sum(said is not None for said in found):
            named.append(f"{many} of {len(found)} networks of {arm.name}")
    if not named:
        return []
    metric = arms[0].metric
    return [
        f"One class only, on more than {100 * ONE_CLASS:g} % of the {metric.elements}, is the "
        f"answer of {', '.join(named)}: their {metric.title} says nothing of what was picked."
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _plain(value: float) -> float | int:
    """A count that is the same for all seeds is a whole number again."""
    return int(value) if float(value).is_integer() else value


def _lead(arm: Arm, baseline: Arm, budget: int) -> float | None:
    """Points above the baseline; rounding is none."""
    pairs = [(arm.curves[s], baseline.curves[s]) for s in common_seeds(arm, baseline)]
    leads = [
        float(one.scores[budget] - other.scores[budget])
        for one, other in pairs
        if min(len(one), len(other)) > budget
    ]
    if not leads:
        return None
    lead = 100 * _mean(leads)
    return 0.0 if abs(lead) < 1e-10 else lead


def saving_table(arms: Sequence[Arm], baseline: Arm, axis: Axis, target: float | None) -> Table:
    """Annotation saving, share of full supervision, and AUCA ratios, on mean curves."""
    full = [c.scores[-1] for a in arms if a.full for c in a.curves.values()]
    selecting = [a for a in arms if not a.full]
    rows = [_saving_row(arm, baseline, axis, target, full) for arm in selecting]
    title = baseline.metric.title
    aim = f"the final {title} of {baseline.name}"
    if target is not None:
        aim = f"{100 * target:.4g} % {title}"
    counted = axis_titles(baseline.metric).get(axis, baseline.metric.elements)
    return Table.of(
        f"Annotation saving: against {baseline.name}",
        [
            *("arm", "seeds", f"{title} along the curve (%)"),
            *(f"AUCA ratio ({counted})", "its sd", "AUCA ratio (budgets)"),
            *(f"{counted} to target", "saving (%)", "final of full (%)"),
        ],
        rows,
        [
            f"Target: {aim}; a curve is charged up to where it first reaches it, on a straight "
            "line between budgets. No saving where it never does, or is there at the start.",
            f"Curves are means over the seeds that an arm shares with {baseline.name}, up to the "
            "end of the shortest run; areas are over the range of costs that both have.",
        ],
    )


def _saving_row(
    arm: Arm, baseline: Arm, axis: Axis, target: float | None, full: Sequence[float]
) -> list[Cell]:
    seeds = common_seeds(arm, baseline)
    if not seeds:
        return [arm.name, 0, *[None] * 7]
    own, other = _MeanCurve(arm.at(seeds), axis), _MeanCurve(baseline.at(seeds), axis)
    ratios = [
        _ratio(_MeanCurve([arm.curves[s]], axis), _MeanCurve([baseline.curves[s]], axis))
        for s in seeds
    ]
    known = [ratio for ratio in ratios if ratio is not None]
    goal = float(other.scores[-1]) if target is None else target
    comparable = rises(own.costs) and rises(other.costs)
    needed = cost_at(own.costs, own.scores, goal) if comparable else None
    saving = (
        annotation_saving(own.costs, own.scores, other.costs, other.scores, goal)
        if comparable
        else None
    )
    cycles = np.arange(min(len(own.costs), len(other.costs)), dtype=np.float64)
    along = mean_height(own.costs, own.scores)
    return [
        *(arm.name, len(seeds), None if along is None else 100 * along),
        _ratio(own, other),
        float(np.std(known, ddof=1)) if len(known) > 1 else None,
        _area_ratio(cycles, own.scores[: len(cycles)], cycles, other.scores[: len(cycles)]),
        *(needed, None if saving is None else 100 * saving),
        100 * float(own.scores[-1]) / _mean(full) if any(full) else None,
    ]


class _MeanCurve:
    """Costs and scores of several runs of an arm, each the mean over them by budget."""

    def __init__(self, curves: Sequence[Curve], axis: Axis) -> None:
        rounds = length(curves)
        self.costs = mean_costs(curves, axis, rounds)
        self.scores = scores(curves, rounds).mean(0)


def _ratio(own: _MeanCurve, other: _MeanCurve) -> float | None:
    return _area_ratio(own.costs, own.scores, other.costs, other.scores)


def _area_ratio(
    costs: Floats, values: Floats, baseline_costs: Floats, baseline_values: Floats
) -> float | None:
    """None where the two share no range of costs, or the baseline's area is nothing."""
    if not (rises(costs) and rises(baseline_costs) and baseline_values.any()):
        return None
    if max(costs[0], baseline_costs[0]) >= min(costs[-1], baseline_costs[-1]):
        return None
    return area_ratio(costs, values, baseline_costs, baseline_values)


def penalty_tables(arms: Sequence[Arm]) -> list[Table]:
    """Pairwise penalty matrices, by means, and by paired t-tests where every pair has two seeds."""
    selecting = [arm for arm in arms if not arm.full]
    pairs = pairs_of([{s: c.scores for s, c in arm.curves.items()} for arm in selecting])
    if pairs is None:
        return []
    names = [arm.name for arm in selecting]
    by_mean = penalties_of_pairs(pairs, penalties_by_mean)
    tables = [_penalties("Penalty matrix: by means", names, by_mean, [_CELL])]
    if all(values.shape[1] > 1 for values in pairs.values()):
        by_test = penalties_of_pairs(pairs, partial(penalties_by_t_test, alpha=_LEVEL))
        title = f"Penalty matrix, t-tests: paired, at {_LEVEL}"
        tables.append(_penalties(title, names, by_test, [_CELL, _UNCORRECTED]))
    return tables


def _penalties(title: str, names: Sequence[str], matrix: Floats, notes: Sequence[str]) -> Table:
    rows: list[list[Cell]] = [
        [name, *map(float, row)] for name, row in zip(names, matrix, strict=True)
    ]
    rows.append(["mean", *map(float, column_means(matrix))])
    return Table.of(title, ["beats", *names], rows, notes)


def pick_table(arms: Sequence[Arm]) -> Table:
    """What was picked, by arm and round: how uncertain, how long, how far apart."""
    elements = arms[0].metric.elements
    keys = (
        *("count", "mistakes", "uncertainty", "magnitude"),
        *("pairwise_distance", "log_determinant"),
    )
    rows: list[list[Cell]] = []
    for arm in arms:
        curves = list(arm.curves.values())
        for number in range(max(map(len, curves))):
            picks = [
                one.picks
                for c in curves
                for one in c.history.rounds[number : number + 1]
                if one.picks is not None
            ]
            if picks:
                values = [[p[key] for p in picks if p.get(key) is not None] for key in keys]
                means = [_plain(_mean(v)) if v else None for v in values]
                rows.append([arm.name, number, len(picks), *means])
    return Table.of(
        "Picks: means over seeds",
        [
            *("arm", "after round", "seeds", "picks", "mistakes", "uncertainty", "magnitude"),
            *("pairwise distance", "log determinant"),
        ],
        rows,
        [
            f"Mistakes: share of the picks' labelled {elements} that the network had wrong (the "
            "mistake-selection rate). Uncertainty: mean entropy of a pick. Magnitude: norm of its "
            "mean feature. The log determinant, of the features' Gram matrix, grows with the "
            "number of picks.",
            "Each arm's own network measures them: after the first round their scales differ.",
        ],
    )
