"""The tables behind the result: classes, picks, costs, seconds, settings and notes of all runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segal.reporting.arms import Arm, Floats, cost, seed_of
from segal.reporting.protocol import (
    alike_notes,
    own_settings,
    settings_of_arm,
    shared_settings,
)
from segal.reporting.tables import Cell, Table, any_cell, count, number, words
from segal.runs.history import Axis, History
from segal.tasks.evaluation import Metric

_NOT_STATISTICS = {"count", "region"}
_MAX_SUMMARY_BYTES = 1 << 20
_MOST_CLASSES, _HARDEST = 200, 40  # a page shows all, or else so many
_COST_DIGITS: Mapping[Axis, int] = {"pixels": 0, "share": 2, "images": 2, "clicks": 0}
_SECONDS_COLUMNS = ("seed", "train", "evaluate", "scan", "select", "inspect", "buy")


@dataclass(frozen=True)
class Statistic:
    """What the picks of every arm come to in one number, by round.

    Attributes:
        name: As in `picks.json`.
        values: By arm name, (seeds, rounds) with NaN where it is not known.
    """

    name: str
    values: Mapping[str, Floats]

    @property
    def title(self) -> str:
        """For people."""
        return self.name.replace("_", " ")


def class_tables(arms: Sequence[Arm]) -> list[Table]:
    """The quantity of every class: of all arms in their last round, then of each arm by round."""
    metric, names = arms[0].metric, arms[0].runs[0].class_names
    by_arm = {arm.name: _by_class(arm, names) for arm in arms}
    last = [
        (words(name), *(_class_cell(by_arm[arm.name][i, -1]) for arm in arms))
        for i, name in enumerate(names)
    ]
    if metric.mean_key is not None:
        means = [_mean_over_seeds(arm, metric.mean_key) for arm in arms]
        last.append((words(metric.mean_key.replace("_", " ")), *map(_class_cell, means)))
    tables = [
        Table(
            f"{metric.class_key}-last-round",
            f"{metric.class_title} by class, last round (%)",
            ("class", *(arm.name for arm in arms)),
            tuple(last),
            (
                _absence(arms, names, metric),
                "Mean over the seeds where a class is not absent. The colour runs from 0 to 100 %.",
            ),
        )
    ]
    for position, arm in enumerate(arms, 1):
        if arm.rounds < 2:
            continue
        rows = [
            (words(name), *(_class_cell(value) for value in by_arm[arm.name][i]))
            for i, name in enumerate(names)
        ]
        columns = ("class", *(f"round {n}" for n in range(arm.rounds)))
        slug = f"{metric.class_key}-by-round-{position:02d}"
        tables.append(Table(slug, arm.name, columns, tuple(rows)))
    return tables


def hardest(table: Table, classes: int) -> Table:
    """A table of classes as a page has room for: of very many, those that are hardest.

    Args:
        table: A row a class, and what is said of all of them below.
        classes: Their number.
    """
    if classes <= _MOST_CLASSES:
        return table
    rows, below = table.rows[:classes], table.rows[classes:]
    heats = [[cell.heat for cell in row if cell.heat is not None] for row in rows]
    means = [sum(heat) / len(heat) if heat else 1.0 for heat in heats]
    kept = sorted(range(len(means)), key=means.__getitem__)[:_HARDEST]
    note = f"The {_HARDEST} lowest of {classes:,} classes; all are in {table.slug}.csv."
    shown = (*(rows[i] for i in kept), *below)
    return replace(table, rows=shown, notes=(note, *table.notes))


def _by_class(arm: Arm, names: Sequence[str]) -> Floats:
    """(classes, rounds) in per cent, mean over the seeds where a class is not absent, or NaN."""
    key = arm.metric.class_key
    values = np.array(
        [
            [[metrics[key].get(name) for name in names] for metrics in run.metrics[: arm.rounds]]
            for run in arm.runs
        ],
        np.float64,
    )
    known = (~np.isnan(values)).sum(0)
    sums = np.nansum(values, 0)
    means: Floats = np.divide(sums, known, out=np.full(sums.shape, np.nan), where=known > 0)
    return 100 * means.T


def _mean_over_seeds(arm: Arm, key: str) -> float:
    """In per cent, of the last round that all seeds have."""
    values = [run.metrics[arm.rounds - 1][key] for run in arm.runs]
    return 100 * float(np.mean(np.array(values, np.float64)))


def _class_cell(value: float) -> Cell:
    return words("absent") if np.isnan(value) else number(float(value), heat=float(value) / 100)


def _absence(arms: Sequence[Arm], names: Sequence[str], metric: Metric) -> str:
    counts = {metrics["absent"] or 0 for arm in arms for run in arm.runs for metrics in run.metrics}
    absent = max(counts)
    if not absent:
        return f"All {len(names)} classes are in the evaluation."
    mean = metric.title if metric.of_classes else "mean over classes"
    said = (
        f"Up to {absent} of {len(names)} classes are absent: {metric.absent}. "
        f"They are left out of the {mean}."
    )
    if len(counts) > 1:
        said += (
            " Not as many are absent everywhere: where one is predicted that the labels lack it "
            f"counts as 0, so that {metric.a_title} may lie lower for that alone."
        )
    return said


def pick_statistics(arms: Sequence[Arm]) -> list[Statistic]:
    """Every number that the picks of any round are described by."""
    picks = {
        arm.name: [[r.picks or {} for r in run.rounds[: arm.rounds]] for run in arm.runs]
        for arm in arms
        if not arm.full
    }
    names = dict.fromkeys(
        key
        for by_seed in picks.values()
        for by_round in by_seed
        for found in by_round
        for key, value in found.items()
        if key not in _NOT_STATISTICS and _is_number(value)
    )
    return [
        Statistic(
            name,
            {
                arm: np.array(
                    [[_number(found.get(name)) for found in by_round] for by_round in by_seed]
                )
                for arm, by_seed in picks.items()
            },
        )
        for name in names
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and _is_number(value) else float("nan")


def pick_table(statistics: Sequence[Statistic], arms: Sequence[Arm]) -> Table | None:
    """Statistics of the picks by arm and round, mean over seeds."""
    rows = []
    for arm in arms:
        if arm.full or not statistics:
            continue
        for n in range(arm.rounds):
            column = [s.values[arm.name][:, n] for s in statistics]
            if all(np.isnan(values).all() for values in column):
                continue
            counts = [len(run.rounds[n].bought) for run in arm.runs]
            means = [
                float(np.nanmean(values)) if not np.isnan(values).all() else None
                for values in column
            ]
            rows.append(
                (
                    words(arm.name),
                    number(n, 0),
                    count(float(np.mean(counts))),
                    *(any_cell(mean) for mean in means),
                )
            )
    if not rows:
        return None
    columns = ("arm", "after round", "picks", *(s.title for s in statistics))
    return Table("picks", "Statistics of the picks", columns, tuple(rows), ("Mean over seeds.",))


def cost_table(arms: Sequence[Arm]) -> Table:
    """What the labels of every round cost, on all axes; mean over seeds."""
    metric = arms[0].metric
    named: tuple[tuple[Axis, str], ...] = (
        *(("regions", metric.regions), ("pixels", metric.elements), ("share", "share (%)")),
        *(("images", "images"), ("clicks", metric.clicks)),
    )
    # An image that is bought as a whole is region, element and image alike.
    titles = [title for _, title in named]
    axes = {axis: title for i, (axis, title) in enumerate(named) if title not in titles[:i]}
    timed = any(one.hours is not None for arm in arms for run in arm.runs for one in run.rounds)
    rows = []
    for arm in arms:
        for n in range(arm.rounds):
            means = {
                axis: float(np.mean([cost(run.rounds[n], axis) for run in arm.runs]))
                for axis in axes
            }
            cells = [
                count(mean) if axis == "regions" else number(mean, _COST_DIGITS[axis])
                for axis, mean in means.items()
            ]
            if timed:
                known = [run.rounds[n].hours for run in arm.runs]
                spent = [hours for hours in known if hours is not None]
                cells.append(number(float(np.mean(spent)) if spent else None, 2))
            rows.append((words(arm.name), number(n, 0), *cells))
    note = "Of all that the round's network was trained on, the seed set included; mean over seeds."
    if "images" in axes:
        note += " Images are image equivalents: multiples of the pool's mean image."
    if timed:
        note += " Hours are what the annotation tools say that annotators took."
    columns = ("arm", "round", *axes.values(), *(["hours"] if timed else []))
    return Table("costs", "What the labels cost", columns, tuple(rows), (note,))


def seconds_table(arms: Sequence[Arm]) -> Table:
    """Where the time went: seconds of each phase over all rounds, mean over seeds."""
    totals: dict[str, dict[str, float]] = {}
    for arm in arms:
        sums: dict[str, float] = dict.fromkeys(_SECONDS_COLUMNS, 0.0)
        for run in arm.runs:
            for r in run.rounds:
                for phase, seconds in r.seconds.items():
                    name, _, _ = phase.partition("-")  # such as scan-0, and seed-scan-0
                    sums[name] = sums.get(name, 0.0) + seconds / len(arm.runs)
        totals[arm.name] = sums
    phases = list(dict.fromkeys(name for sums in totals.values() for name in sums))
    rows = []
    for arm in arms:
        sums = totals[arm.name]
        whole = sum(sums.values())
        cells = [
            number(sums.get(p, 0.0), heat=sums.get(p, 0.0) / whole if whole else 0.0)
            for p in phases
        ]
        rows.append((words(arm.name), *cells, number(whole)))
    columns = ("arm", *phases, "all")
    notes = ("Seconds over all rounds, mean over seeds. The colour is a phase's share of its arm.",)
    return Table("seconds", "Seconds by phase", columns, tuple(rows), notes)


def settings_tables(arms: Sequence[Arm]) -> list[Table]:
    """What all runs share, and each run by its own settings and fingerprint."""
    ordinary = next((arm for arm in arms if not arm.full), arms[0])
    shared = shared_settings(ordinary.runs[0])
    own = [
        (
            words(arm.name),
            number(seed_of(run), 0),
            words(_strategies(own_settings(run))),
            words(str(run.configuration.get("region"))),
            words(" ".join(map(str, run.configuration.get("budgets", ()))) or "–"),
            words(run.fingerprint[:12]),
            words(str(run.folder)),
        )
        for arm in arms
        for run in arm.runs
    ]
    return [
        Table(
            "runs",
            "Runs",
            ("arm", "seed", "strategy", "region", "budgets", "fingerprint", "folder"),
            tuple(own),
        ),
        Table(
            "settings",
            "Settings that all runs share",
            ("key", "value"),
            tuple((words(key), words(value)) for key, value in shared.items()),
            ("The fully supervised arm may differ in its seed set, start and iterations.",),
        ),
    ]


def _strategies(settings: Mapping[str, Any]) -> str:
    """What picks, and what chose the seed set if that was not chance."""
    picks = _plain(settings.get("strategy"))
    chosen = settings.get("seed_strategy")
    return picks if chosen is None else f"{picks}, seed set by {_plain(chosen)}"


def _plain(strategy: object) -> str:
    if not isinstance(strategy, Mapping):
        return str(strategy)
    others = [f"{key}={value}" for key, value in strategy.items() if key != "name"]
    return " ".join([str(strategy.get("name")), *others])


def notes_of(arms: Sequence[Arm]) -> list[str]:
    """What the runs had to say, and what is to be known of them; each once."""
    notes = alike_notes({arm.name: settings_of_arm(arm.runs[0]) for arm in arms})
    for arm in arms:
        for run in arm.runs:
            found = [f"{arm.name}, seed {seed_of(run)}: {note}" for note in _summary_notes(run)]
            planned = len(run.configuration.get("budgets", ())) + 1
            if len(run.rounds) < planned:
                found.append(
                    f"{arm.name}, seed {seed_of(run)}: {len(run.rounds)} of {planned} rounds are "
                    "evaluated."
                )
            notes += found
        if len({len(run.rounds) for run in arm.runs}) > 1:
            notes.append(
                f"{arm.name}: its seeds have come to different rounds; only the first "
                f"{arm.rounds} are compared."
            )
        if len(arm.runs) == 1:
            notes.append(f"{arm.name}: one seed only, so there is no spread.")
    return list(dict.fromkeys(notes))


def _summary_notes(run: History) -> list[str]:
    summary = read_small_json(run.folder / "summary.json")
    notes = summary.get("notes") if isinstance(summary, dict) else None
    return [str(note) for note in notes] if isinstance(notes, list) else []


def read_small_json(path: Path) -> object:
    """A JSON file that may be missing or damaged; None then."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SUMMARY_BYTES + 1)
        return None if len(data) > _MAX_SUMMARY_BYTES else json.loads(data)
    except (OSError, ValueError, RecursionError):
        return None


def raw_cell(value: str | float | int) -> Cell:
    """A cell that is only written to a file."""
    return Cell(str(value), value)
