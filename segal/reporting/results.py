"""What a report says first: which arm is ahead at equal cost, by how much, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segal.functional.curves import annotation_saving, area_ratio
from segal.functional.penalty import column_means, penalties_by_mean
from segal.reporting.arms import Arm, Floats
from segal.reporting.tables import Table, any_cell, number, words

_WORSE = "worse than random"


@dataclass(frozen=True)
class Standing:
    """Arms at the highest cost that all of them reach.

    Attributes:
        cost: On the report's axis.
        scores: By arm name, (seeds,) mIoU in per cent, each from its own run's curve, a straight
            line between budgets.
    """

    cost: float
    scores: dict[str, Floats]


def selecting(arms: Sequence[Arm]) -> list[Arm]:
    """Those that select, which the fully supervised do not."""
    return [arm for arm in arms if not arm.full]


def standing(arms: Sequence[Arm], axis: str) -> Standing | None:
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


def amount(cost: float, axis: str) -> str:
    """A cost in words."""
    if axis == "share":
        return f"{cost:.3g} % of the pool's pixels"
    units = {"images": "image equivalents", "clicks": "polygon clicks"}
    return f"{cost:,.0f} {units.get(axis, axis)}"


def headline(arms: Sequence[Arm], axis: str) -> list[str]:
    """The result in a few sentences: the first one is the result, the others say how sure it is."""
    at = standing(arms, axis)
    if at is None:
        return ["These arms have no cost in common on this axis, so none is ahead at equal cost."]
    ranked = sorted(at.scores, key=lambda name: -at.scores[name].mean())
    best = ranked[0]
    where = f"at {amount(at.cost, axis)}"
    score = at.scores[best].mean()
    if len(ranked) == 1:
        lines = [f"{best} reaches a mIoU of {score:.1f} % {where}."]
        return lines + _caveat(at, [best], None)
    second = ranked[1]
    lead = score - at.scores[second].mean()
    lines = [
        f"{best} is ahead {where}: mIoU {score:.1f} %, {lead:.1f} points over {second}, the next."
    ]
    by_name = {arm.name: arm for arm in arms}
    random = baseline_of(by_name[best], arms)
    if random is not None and random.name not in (best, second):
        over = score - at.scores[random.name].mean()
        lines.append(f"Over {random.name} it is {over:.1f} points.")
    pairs = _pairs(by_name[best], by_name[second], at)
    if len(pairs) > 1:
        lines.append(
            f"Seed by seed, {best} is {_points(min(pairs))} to {_points(max(pairs))} points over "
            f"{second}."
        )
    return lines + _caveat(at, [best, second], lead)


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
    return [f"{apart}: the lead is larger than that, but so few seeds prove nothing by themselves."]


def standing_table(arms: Sequence[Arm], axis: str) -> Table | None:
    """Arms at equal cost, with differences from random at the same seeds; best first."""
    at = standing(arms, axis)
    if at is None:
        return None
    full = next((float(arm.scores()[:, -1].mean()) for arm in arms if arm.full), None)
    rows = []
    for arm in sorted(selecting(arms), key=lambda a: -at.scores[a.name].mean()):
        scores = at.scores[arm.name]
        random = baseline_of(arm, arms)
        lead, ratio, saving = None, None, None
        if random is not None and random is not arm:
            pairs = _pairs(arm, random, at)
            lead = float(np.mean(pairs)) if pairs else None
            ratio, saving = _against(arm, random, axis)
        rows.append(
            (
                words(arm.name),
                number(len(scores), 0),
                number(float(scores.mean()), sd=_sd(scores)),
                number(lead, signed=True, mark=_WORSE if lead is not None and lead < 0 else ""),
                number(ratio, 3),
                number(None if saving is None else 100 * saving, 0, signed=True),
                number(None if full is None else 100 * float(scores.mean()) / full),
            )
        )
    columns = (
        *("arm", "seeds", "mIoU (%) ± sd", "over random (points)"),
        *("area ratio", "saving (%)", "of full (%)"),
    )
    notes = [
        f"At {amount(at.cost, axis)}, the highest cost that all runs reach; straight lines "
        "between budgets."
    ]
    if any(arm.strategy == "random" for arm in selecting(arms)):
        notes += [
            "Random: the random arm of the same region size, or else any, at the same seeds.",
            "Area ratio: area under the mean curve over random's, on the costs that both have. "
            "Saving: of random's cost to reach its final mIoU; none where that is never reached.",
        ]
    if full is not None:
        notes.append(f"Of full: share of the mIoU of full supervision, {full:.1f} %.")
    kept = [i for i in range(len(columns)) if any(row[i].value != "" for row in rows)]
    return Table(
        "equal-cost",
        "Arms at equal cost",
        tuple(columns[i] for i in kept),
        tuple(tuple(row[i] for i in kept) for row in rows),
        tuple(notes),
    )


def _sd(scores: Floats) -> float | None:
    return float(scores.std(ddof=1)) if len(scores) > 1 else None


def _pairs(arm: Arm, other: Arm, at: Standing) -> list[float]:
    """Differences at the seeds that both have."""
    common = sorted(set(arm.seeds) & set(other.seeds))
    return [
        float(
            at.scores[arm.name][arm.seeds.index(seed)]
            - at.scores[other.name][other.seeds.index(seed)]
        )
        for seed in common
    ]


def _against(arm: Arm, random: Arm, axis: str) -> tuple[float | None, float | None]:
    """Area ratio and annotation saving of mean curves; None where they are not defined."""
    curves = [a.costs(axis).mean(0) for a in (arm, random)]
    curve = (curves[0], arm.band().mean, curves[1], random.band().mean)
    try:
        return area_ratio(*curve), annotation_saving(*curve)
    except ValueError:  # costs that do not overlap, or stand still at the end of the pool
        return None, None


def budget_table(arms: Sequence[Arm], axis: str) -> Table:
    """The mIoU at the end of each budget: mean and standard deviation over seeds."""
    rounds = max(arm.rounds for arm in arms)
    rows = []
    for arm in arms:
        random, band = baseline_of(arm, arms), arm.band()
        cells = [words(arm.name), number(len(arm.runs), 0)]
        for budget in range(rounds):
            if budget >= arm.rounds:
                cells.append(number(None))
                continue
            worse = (
                budget > 0
                and random is not None
                and not arm.full
                and random is not arm
                and budget < random.rounds
                and band.mean[budget] < random.band().mean[budget]
            )
            mark = _WORSE if worse else ""
            cells.append(number(float(band.mean[budget]), mark=mark, sd=float(band.sd[budget])))
        rows.append(tuple(cells))
    columns = ["arm", "seeds"]
    first = next(iter(selecting(arms)), arms[0])
    for budget in range(rounds):
        name = "seed set" if budget == 0 else f"budget {budget}"
        if budget < first.rounds:
            cost = float(first.costs(axis)[:, budget].mean())
            name += f" ({cost:.3g} %)" if axis == "share" else f" ({cost:,.0f} {axis})"
        columns.append(name)
    return Table(
        "budgets",
        "mIoU (%) at the end of each budget",
        tuple(columns),
        tuple(rows),
        (
            f"Mean ± standard deviation over seeds. Costs are those of {first.name}. "
            f"{_WORSE.capitalize()}: the mean lies below that of the random arm of the same region "
            "size, or else any.",
        ),
    )


def penalty_table(arms: Sequence[Arm]) -> tuple[Table | None, str]:
    """The pairwise penalty matrix; or None, and why there is none."""
    compared = selecting(arms)
    seeds = sorted(set.intersection(*(set(arm.seeds) for arm in compared))) if compared else []
    rounds = min((arm.rounds for arm in compared), default=0)
    if len(compared) < 2:
        return None, "It takes two arms that select."
    if not seeds or rounds < 2:
        return None, "It takes a budget beyond the seed set, at seeds that all arms have."
    scores = np.array(
        [[arm.scores()[arm.seeds.index(seed), :rounds] for seed in seeds] for arm in compared]
    )
    matrix = penalties_by_mean(scores)
    rows = [
        (words(arm.name), *(number(v, 2, heat=v) for v in row))
        for arm, row in zip(compared, matrix.tolist(), strict=True)
    ]
    means = column_means(matrix).tolist()
    rows.append((words("column mean Φ"), *(number(v, 2, heat=v) for v in means)))
    best = compared[int(np.argmin(means))].name
    count = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    table = Table(
        "penalty-matrix",
        "Pairwise penalty matrix",
        ("row beats column", *(arm.name for arm in compared)),
        tuple(rows),
        (
            f"Share of the {rounds - 1} budgets after the seed set at which the row's mean over "
            f"{count} is above the column's, by however little. The column mean Φ is how much an "
            f"arm is beaten: lowest is best, here {best}.",
        ),
    )
    return table, ""


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
