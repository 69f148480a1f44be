"""What a report says first: which arm is ahead at equal cost, by how much, and how sure that is."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segal.functional.curves import annotation_saving, area_ratio
from segal.functional.penalty import (
    column_means,
    pairs_of,
    penalties_by_mean,
    penalties_of_pairs,
)
from segal.reporting.arms import Arm, Floats, common_seeds, seed_of
from segal.reporting.tables import Table, any_cell, number, words
from segal.runs.history import Axis
from segal.tasks.evaluation import Metric
from segal.tasks.judging import ONE_CLASS, never_predicted, one_answer

_WORSE = "worse than random"
_MOST_CLASSES = 5  # that are named in the headline
_ENOUGH_SEEDS = 6  # below which a sign-flip test cannot reach p < 0.05


@dataclass(frozen=True)
class Standing:
    """Arms at the highest cost that all of them reach.

    Attributes:
        cost: On the report's axis.
        scores: By arm name, (seeds,) in per cent, each from its own run's curve, a straight
            line between budgets.
    """

    cost: float
    scores: dict[str, Floats]


def selecting(arms: Sequence[Arm]) -> list[Arm]:
    """Those that select, which the fully supervised do not."""
    return [arm for arm in arms if not arm.full]


def standing(arms: Sequence[Arm], axis: Axis) -> Standing | None:
    """Compares arms at equal cost; None where their costs have nothing in common."""
    costs = {arm.name: arm.costs(axis) for arm in selecting(arms)}
    if not costs:
        return None
    last = min(float(values[:, -1].min()) for values in costs.values())
    if last < max(float(values[:, 0].max()) for values in costs.values()):
        return None
    scores = {
        arm.name: np.array(
            [np.interp(last, c, s) for c, s in zip(costs[arm.name], arm.scores(), strict=True)]
        )
        for arm in selecting(arms)
    }
    return Standing(last, scores)


def baseline_of(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """The random arm that an arm is held against: of its region size, or else any."""
    randoms = [a for a in arms if a.strategy == "random" and not a.full]
    same = [a for a in randoms if a.region == arm.region]
    return next(iter(same or randoms), None)


def amount(cost: float, axis: Axis, metric: Metric) -> str:
    """A cost in words."""
    if axis == "share":
        return f"{cost:.3g} % of the pool's {metric.elements}"
    return f"{cost:,.0f} {_unit(axis, metric)}"


def _unit(axis: Axis, metric: Metric) -> str:
    units: dict[Axis, str] = {
        "regions": metric.regions,
        "pixels": metric.elements,
        "images": "image equivalents",
        "clicks": metric.clicks,
    }
    return units[axis]


def headline(arms: Sequence[Arm], axis: Axis) -> list[str]:
    """The result in a few sentences: the first one is the result, the others say how sure it is.

    Arms are ranked at the seeds that all of them have, so that no arm is ahead by its seeds.
    """
    compared = selecting(arms)
    seeds = common_seeds(compared)
    paired = [arm.at(seeds) for arm in compared] if seeds else compared
    at = standing(paired, axis)
    if at is None:
        return ["These arms have no cost in common on this axis, so none is ahead at equal cost."]
    means = {name: float(scores.mean()) for name, scores in at.scores.items()}
    best, *others = sorted(means, key=lambda name: -means[name])
    metric = compared[0].metric
    where = f"at {amount(at.cost, axis, metric)}"
    if not others:
        return [
            f"{best} reaches {metric.a_title} of {means[best]:.1f} % {where}.",
            *_caveat(at, [best], None),
        ]
    second = others[0]
    lead = means[best] - means[second]
    ahead = f"{_points(lead)} points over {second}, the next."
    if _points(lead) == "0.0":
        first = f"{best} and {second} are level {where}: {metric.title} {means[best]:.1f} %."
    else:
        first = f"{best} is ahead {where}: {metric.title} {means[best]:.1f} %, {ahead}"
    lines = [first]
    by_name = {arm.name: arm for arm in paired}
    random = baseline_of(by_name[best], paired)
    if random is not None and random.name not in (best, second):
        lines.append(
            f"Over {random.name} it is {_points(means[best] - means[random.name])} points."
        )
    if not seeds:
        lines.append("The arms have no seed in common: luck with the seed set differs as well.")
    elif len(seeds) > 1:
        leads = at.scores[best] - at.scores[second]
        lines.append(
            f"Seed by seed, {best} is {_points(leads.min())} to {_points(leads.max())} points over "
            f"{second}{_of_seeds(compared, seeds)}."
        )
    if len(others) > 1:
        lines.append(
            f"The best of {len(means)} arms was found by looking, so that its lead is exploratory."
        )
    return lines + _caveat(at, [best, second], lead)


def one_class_line(arms: Sequence[Arm]) -> str | None:
    """What to say first where networks answer one class only; None where none does."""
    answers = {
        arm.name: [one_answer(metrics) is not None for run in arm.runs for metrics in run.metrics]
        for arm in arms
    }
    total, many = sum(map(len, answers.values())), sum(map(sum, answers.values()))
    if not many:
        return None
    where = ", ".join(name for name, found in answers.items() if any(found))
    metric = arms[0].metric
    return (
        f"{many} of {total} networks answer one class on more than {100 * ONE_CLASS:g} % of the "
        f"{metric.elements} that they are evaluated on ({where}): their {metric.title} says "
        "nothing of what was picked."
    )


def never_line(arms: Sequence[Arm]) -> str | None:
    """What to say of classes that networks of the last round never predict; None where none is."""
    found = [
        (arm.name, name)
        for arm in arms
        for run in arm.runs
        for name in never_predicted(run.metrics[arm.rounds - 1])
    ]
    if not found:
        return None
    total, split = sum(len(arm.runs) for arm in arms), arms[0].runs[0].report_split
    most = Counter(name for _, name in found).most_common()
    shown = [
        f"{name!r} by {networks} of {total} networks "
        f"({', '.join(dict.fromkeys(arm for arm, one in found if one == name))})"
        for name, networks in most[:_MOST_CLASSES]
    ]
    more = f"; and {len(most) - _MOST_CLASSES} more" if len(most) > _MOST_CLASSES else ""
    return f"In the last round, classes of {split} are never predicted: {'; '.join(shown)}{more}."


def _of_seeds(arms: Sequence[Arm], seeds: Sequence[int]) -> str:
    more = any(len(arm.runs) > len(seeds) for arm in arms)
    return f", at the {len(seeds)} seeds that all arms have" if more else ""


def _points(value: float) -> str:
    return f"{value:.1f}".replace("-", "\N{MINUS SIGN}")


def _caveat(at: Standing, names: Sequence[str], lead: float | None) -> list[str]:
    """How far the seeds lie apart, and what follows for the lead."""
    seeds = min(len(at.scores[name]) for name in names)
    if seeds < 2:
        alone = " and ".join(name for name in names if len(at.scores[name]) < 2)
        return [
            f"One seed only of {alone}: nothing tells this apart from chance. Run more seeds "
            "before believing it."
        ]
    spread = max(float(np.ptp(at.scores[name])) for name in names)
    apart = f"Seeds of one arm lie up to {spread:.1f} points apart ({seeds} seeds)"
    if lead is None:
        return [f"{apart}."]
    if lead <= spread:
        return [f"{apart}: the lead is within that spread, and may be chance."]
    few = ", but so few seeds prove nothing by themselves" if seeds < _ENOUGH_SEEDS else ""
    return [f"{apart}: the lead is larger than that{few}."]


def standing_table(arms: Sequence[Arm], axis: Axis) -> Table | None:
    """Arms at equal cost, with differences from random at the same seeds; best first."""
    at = standing(arms, axis)
    if at is None:
        return None
    full = next((float(arm.scores()[:, -1].mean()) for arm in arms if arm.full), None)
    metric = arms[0].metric
    title = metric.title
    rows = []
    for arm in sorted(selecting(arms), key=lambda a: -at.scores[a.name].mean()):
        scores = at.scores[arm.name]
        random = baseline_of(arm, arms)
        lead, ratio, saving = None, None, None
        if random is not None and random is not arm:
            lead = _lead(arm, random, at)
            ratio, saving = _against(arm, random, axis)
        rows.append(
            (
                words(arm.name),
                number(len(scores), 0),
                number(float(scores.mean()), sd=_sd(scores)),
                number(lead, signed=True, mark=_WORSE if lead is not None and lead < 0 else ""),
                number(ratio, 3),
                number(None if saving is None else 100 * saving, 0, signed=True),
                number(None if not full else 100 * float(scores.mean()) / full),
                number(_worth(at.cost, float(scores.mean()), axis, metric), 2),
            )
        )
    columns = (
        *("arm", "seeds", f"{title} (%) ± sd", "over random (points)"),
        *("area ratio", "saving (%)", "of full (%)"),
        f"{metric.per_clicks:,} · {title} / {metric.clicks}" if metric.per_clicks else "",
    )
    notes = [
        f"At {amount(at.cost, axis, metric)}, the highest cost that all runs reach; "
        "straight lines between budgets."
    ]
    if any(arm.strategy == "random" for arm in selecting(arms)):
        notes += [
            "Random: the random arm of the same region size, or else any, at the same seeds.",
            "Area ratio: area under the mean curve over random's, on the costs that both have. "
            f"Saving: of random's cost to reach its final {title}; none where that is never "
            "reached, or at the start already.",
        ]
    if len({arm.seeds for arm in selecting(arms)}) > 1:
        notes.append("Arms have other seeds than others: compare them by what is over random.")
    if full is not None:
        notes.append(f"Of full: share of the {title} of full supervision, {full:.1f} %.")
    kept = [i for i in range(len(columns)) if any(row[i].value != "" for row in rows)]
    return Table(
        "equal-cost",
        "Arms at equal cost",
        tuple(columns[i] for i in kept),
        tuple(tuple(row[i] for i in kept) for row in rows),
        tuple(notes),
    )


def _worth(clicks: float, score: float, axis: Axis, metric: Metric) -> float | None:
    """The metric in per cent by so many clicks, such as 10,000 · mAP / boxes, on their own axis."""
    if axis != "clicks" or metric.per_clicks is None or not clicks:
        return None
    return metric.per_clicks * score / clicks


def _sd(scores: Floats) -> float | None:
    return float(scores.std(ddof=1)) if len(scores) > 1 else None


def _lead(arm: Arm, other: Arm, at: Standing) -> float | None:
    """Mean difference at the seeds that both have."""
    here, there = (dict(zip(a.seeds, at.scores[a.name], strict=True)) for a in (arm, other))
    leads = [here[seed] - there[seed] for seed in common_seeds([arm, other])]
    return float(np.mean(leads)) if leads else None


def _against(arm: Arm, random: Arm, axis: Axis) -> tuple[float | None, float | None]:
    """Area ratio and annotation saving of mean curves over the seeds that both have.

    None where they are not defined.
    """
    seeds = common_seeds([arm, random])
    if not seeds:
        return None, None
    own, other = arm.at(seeds), random.at(seeds)
    curves = [a.costs(axis).mean(0) for a in (own, other)]
    curve = (curves[0], own.band().mean, curves[1], other.band().mean)
    try:
        return area_ratio(*curve), annotation_saving(*curve)
    except ValueError:  # costs that do not overlap, or stand still at the end of the pool
        return None, None


def budget_table(arms: Sequence[Arm], axis: Axis) -> Table:
    """The score at the end of each budget: mean and standard deviation over seeds."""
    rounds, metric = max(arm.rounds for arm in arms), arms[0].metric
    rows = []
    for arm in arms:
        random, band = baseline_of(arm, arms), arm.band()
        leads = _leads(arm, None if arm.full or random is arm else random)
        cells = [words(arm.name), number(len(arm.runs), 0)]
        for budget in range(rounds):
            if budget >= arm.rounds:
                cells.append(number(None))
                continue
            mark = _WORSE if 0 < budget < len(leads) and leads[budget] < 0 else ""
            cells.append(number(float(band.mean[budget]), mark=mark, sd=float(band.sd[budget])))
        rows.append(tuple(cells))
    columns = ["arm", "seeds"]
    first = next(iter(selecting(arms)), arms[0])
    named = {"regions": metric.regions, "pixels": metric.elements, "clicks": metric.clicks}
    unit = named.get(axis, axis)
    for budget in range(rounds):
        name = "seed set" if budget == 0 else f"budget {budget}"
        if budget < first.rounds:
            cost = float(first.costs(axis)[:, budget].mean())
            name += f" ({cost:.3g} %)" if axis == "share" else f" ({cost:,.0f} {unit})"
        columns.append(name)
    return Table(
        "budgets",
        f"{metric.heading} (%) at the end of each budget",
        tuple(columns),
        tuple(rows),
        (
            f"Mean ± standard deviation over seeds. Costs are those of {first.name}. "
            f"{_WORSE.capitalize()}: the mean lies below that of the random arm of the same region "
            "size, or else any, at the seeds that both have.",
        ),
    )


def _leads(arm: Arm, random: Arm | None) -> Floats:
    """By budget, the mean difference from random at the seeds that both have."""
    seeds = common_seeds([arm, random]) if random is not None else []
    if random is None or not seeds:
        return np.zeros(0)
    own, other = arm.at(seeds), random.at(seeds)
    rounds = min(own.rounds, other.rounds)
    return own.band().mean[:rounds] - other.band().mean[:rounds]


def penalty_table(arms: Sequence[Arm]) -> tuple[Table | None, str]:
    """The pairwise penalty matrix; or None, and why there is none."""
    compared = selecting(arms)
    if len(compared) < 2:
        return None, "It takes two arms that select."
    pairs = pairs_of([{seed_of(run): np.array(run.scores) for run in arm.runs} for arm in compared])
    if pairs is None:
        return None, "It takes a budget beyond the seed set, at seeds that every two arms share."
    matrix = penalties_of_pairs(pairs, penalties_by_mean)
    rows = [
        (words(arm.name), *(number(v, 2, heat=v) for v in row))
        for arm, row in zip(compared, matrix.tolist(), strict=True)
    ]
    means = column_means(matrix).tolist()
    rows.append((words("column mean Φ"), *(number(v, 2, heat=v) for v in means)))
    best = compared[int(np.argmin(means))].name
    return (
        Table(
            "penalty-matrix",
            "Pairwise penalty matrix",
            ("row beats column", *(arm.name for arm in compared)),
            tuple(rows),
            (
                "Share of the budgets after the seed set at which the row's mean is above the "
                "column's, by however little, at the seeds that both have. The column mean Φ is "
                f"how much an arm is beaten: lowest is best, here {best}.",
            ),
        ),
        "",
    )


def given_tables(tables: object) -> list[Table]:
    """Tables of a `comparison.json`: a list of titles, columns, rows and notes."""
    found: list[Table] = []
    if not isinstance(tables, list):
        return found
    for position, table in enumerate(tables, 1):
        if not isinstance(table, dict):
            continue
        columns = tuple(str(column) for column in table.get("columns", ()))
        rows = tuple(
            tuple(any_cell(cell) for cell in row)
            for row in table.get("rows", ())
            if isinstance(row, list) and len(row) == len(columns)
        )
        notes = table.get("notes", ())
        notes = (notes,) if isinstance(notes, str) else tuple(str(note) for note in notes)
        title = str(table.get("title", f"Table {position}"))
        found.append(Table(f"comparison-{position:02d}", title, columns, rows, notes))
    return found
