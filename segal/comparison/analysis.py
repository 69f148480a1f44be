"""All tables of a comparison, in the order in which they should be read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from segal.comparison.arms import Arm
from segal.comparison.contrasts import Contrast, contrast
from segal.comparison.summaries import (
    noise_table,
    penalty_tables,
    pick_table,
    saving_table,
    score_table,
)
from segal.comparison.tables import Cell, Table
from segal.errors import SegalError
from segal.functional.significance import PermutationTest, holm
from segal.reporting.tables import any_cell, number
from segal.runs.history import Axis
from segal.tasks.evaluation import Metric

PRIMARY = "Primary contrast: area under the curve"
_LEVEL = 0.05

_SEEDS = (
    "p (seeds) is the evidence for a strategy; it cannot be below the smallest p, which the number "
    "of seeds sets, whatever the difference."
)
_IMAGES = (
    "p (images) takes the trained networks as they are: a small one says that these networks differ"
    ", not that one strategy is better than the other. Two runs of one strategy often have a small "
    "one, too: see the noise."
)
_EXPLORATORY = (
    "Exploratory: p-values are corrected by Holm's method within each column of tests, over the "
    "rows of this table."
)
_LOOKED_AT = "Exploratory: not declared before the runs."
_MOST_COST_GAP = 0.01
_RALIF = (
    "Warning: RALIF's test is here to compare with published values; do not rely on it. It is "
    "anti-conservative: of two equally good arms it tells a difference in 28 % of simulations at "
    "alpha = .05. Labels are permuted over the {elements} that evaluations hold; p is the largest "
    "over the seeds."
)


@dataclass(frozen=True)
class Question:
    """What a comparison asks of its runs.

    Attributes:
        baseline: Name of the arm that the others are measured against.
        primary: Names of the two arms of the one contrast that is not exploratory.
        target: Score in [0, 1] that annotation saving is measured at; None: the baseline's final.
        axis: What costs are counted in.
        permutations: Of the tests.
        label_permutation: Also report RALIF's test.
    """

    baseline: str
    primary: tuple[str, str] | None = None
    target: float | None = None
    axis: Axis = "share"
    permutations: int = 10_000
    label_permutation: bool = False


def analyse(
    arms: Sequence[Arm],
    question: Question,
    progress: Callable[[int, int], None] | None = None,
) -> list[Table]:
    """Makes the tables of a comparison, the noise first.

    The result does not depend on the order of arms or seeds, but for the order of rows.

    Args:
        arms: Those of which runs are there.
        question: What to ask of them.
        progress: Called with (contrasts done, all) after each.

    Raises:
        SegalError: If no run of the baseline is there, runs were evaluated on other images than
            others, or the axis is of clicks and those of a run are not known.
    """
    named = {arm.name: arm for arm in arms}
    if question.baseline not in named:
        raise SegalError(
            f"no run of the baseline {question.baseline!r} is finished",
            expected="at least one, which the others are measured against",
            got=f"finished runs of {', '.join(named)}" if named else "no finished run at all",
            remedy="let segal compare go on, or choose another baseline",
        )
    baseline = named[question.baseline]
    contrasts = _contrasts(named, question, progress)
    primary = contrasts.pop(question.primary, None) if question.primary else None
    exploratory = list(contrasts.values())
    tables = [noise_table(baseline, question.permutations)]
    if question.primary is not None:
        tables.append(_primary_table(question.primary, primary, baseline.metric))
    summaries = [
        score_table(arms, baseline),
        saving_table(arms, baseline, question.axis, question.target),
        *penalty_tables(arms),
    ]
    tables += [replace(table, notes=(*table.notes, _LOOKED_AT)) for table in summaries]
    if exploratory:
        tables.append(_exploratory_table(exploratory, baseline.metric))
    if question.label_permutation and (primary or exploratory):
        asked = [*([primary] if primary else []), *exploratory]
        tables.append(_label_table(asked, baseline.metric))
    return [*tables, pick_table(arms)]


def statement(tables: Sequence[Table]) -> str:
    """What a comparison says first: what its primary contrast came to, in a few sentences."""
    primary = next((table for table in tables if table.title == PRIMARY), None)
    if primary is None:
        return "No primary contrast was declared before the runs: all results are exploratory."
    return primary.notes[0]


def _contrasts(
    named: dict[str, Arm], question: Question, progress: Callable[[int, int], None] | None
) -> dict[tuple[str, str], Contrast]:
    """The primary contrast, and every other arm against the baseline, as far as they are there."""
    pairs = [question.primary] if question.primary else []
    pairs += [
        (arm.name, question.baseline)
        for arm in named.values()
        if not arm.full and arm.name != question.baseline
    ]
    if question.primary:
        pairs = [pair for pair in pairs if pair != question.primary[::-1]]  # the same, turned round
    wanted = [pair for pair in dict.fromkeys(pairs) if pair[0] in named and pair[1] in named]
    found = {}
    for done, (one, other) in enumerate(wanted, 1):
        result = contrast(
            named[one],
            named[other],
            question.permutations,
            with_labels=question.label_permutation,
        )
        if result is not None:
            found[one, other] = result
        if progress is not None:
            progress(done, len(wanted))
    return found


def _primary_table(names: tuple[str, str], primary: Contrast | None, metric: Metric) -> Table:
    columns = ["contrast", "unit", "test", "difference", "p", "smallest p", "permutations"]
    if primary is None:
        said = (
            f"Primary contrast, declared before the runs: {names[0]} against {names[1]}. There is "
            "no result: the two have no finished runs with a common seed and a budget beyond the "
            "seed set."
        )
        return Table.of(PRIMARY, columns, [[" - ".join(names), *[None] * 6]], [said])
    tests = [
        (_count(len(primary.seeds), "seed"), "sign-flip, over seeds", primary.by_seeds),
        (_count(primary.images, "image"), "permutation, networks as they are", primary.by_images),
    ]
    rows: list[list[Cell]] = [
        [primary.name, unit, kind, 100 * t.difference, t.p, t.smallest_p, t.permutations]
        for unit, kind, t in tests
    ]
    notes = [_said(names, primary, metric), *_test_notes([primary], metric)]
    return Table.of(PRIMARY, columns, rows, notes)


def _test_notes(contrasts: Sequence[Contrast], metric: Metric) -> list[str]:
    """What the tests are of, and what they say."""
    units = (
        f"Areas are under the curve of {metric.title} over the share of the pool's "
        f"{metric.elements}, divided by its range: a difference is in points of {metric.title}, "
        "the mean along the curve."
    )
    by_image = [metric.by_image] if metric.by_image else []
    return [units, _SEEDS, _IMAGES, *by_image, *_matching_notes(contrasts, metric)]


def _said(names: tuple[str, str], primary: Contrast, metric: Metric) -> str:
    test, seeds = primary.by_seeds, len(primary.seeds)
    if test.p < _LEVEL:
        verdict = "chance alone would seldom give that much"
    elif test.smallest_p >= _LEVEL:
        least = _p(test.smallest_p)
        verdict = f"so few seeds cannot tell it from chance, since p cannot be below {least}"
    else:
        verdict = "it cannot be told from chance"
    return (
        f"Primary contrast, declared before the runs: {names[0]} against {names[1]}, area under "
        f"the curve over {_count(primary.budgets, 'budget')}. The difference is "
        f"{number(100 * test.difference, 2, signed=True).text} points of {metric.title}; over "
        f"{_count(seeds, 'seed')} p = {_p(test.p)}: {verdict}."
    )


def _p(value: float) -> str:
    return any_cell(value).text


def _count(many: int, name: str) -> str:
    return f"{many} {name}" if many == 1 else f"{many} {name}s"


def _matching_notes(contrasts: Sequence[Contrast], metric: Metric) -> list[str]:
    """Contrasts of unequal cost, which are matched by budget all the same, or of cut curves."""
    notes = []
    if apart := [c for c in contrasts if c.cost_gap > _MOST_COST_GAP]:
        named = ", ".join(f"{c.name} (up to {100 * c.cost_gap:.1f} %)" for c in apart)
        notes.append(
            f"Not at equal cost: the labelled {metric.elements} of a budget differ in {named}."
        )
    if cut := [c for c in contrasts if c.is_cut]:
        named = ", ".join(f"{c.name} (the first {_count(c.budgets, 'budget')})" for c in cut)
        notes.append(f"Some runs ended before others; only what all have is compared in {named}.")
    return notes


def _exploratory_table(contrasts: Sequence[Contrast], metric: Metric) -> Table:
    by_images = holm([c.by_images.p for c in contrasts]).tolist()
    by_seeds = holm([c.by_seeds.p for c in contrasts]).tolist()
    rows: list[list[Cell]] = [
        [
            *(c.name, len(c.seeds), c.budgets, 100 * c.by_seeds.difference),
            *_test(c.by_seeds, seed_p),
            *_test(c.by_images, image_p),
        ]
        for c, image_p, seed_p in zip(contrasts, by_images, by_seeds, strict=True)
    ]
    return Table.of(
        "Exploratory contrasts: area under the curve",
        [
            *("contrast", "seeds", "budgets", "difference"),
            *("p (seeds)", "Holm (seeds)", "smallest (seeds)"),
            *("p (images)", "Holm (images)", "smallest (images)"),
        ],
        rows,
        [_EXPLORATORY, *_test_notes(contrasts, metric)],
    )


def _test(test: PermutationTest, adjusted: float) -> list[Cell]:
    return [test.p, adjusted, test.smallest_p]


def _label_table(contrasts: Sequence[Contrast], metric: Metric) -> Table:
    rows: list[list[Cell]] = [
        [c.name, len(c.seeds), 100 * c.by_labels.difference, c.by_labels.p]
        for c in contrasts
        if c.by_labels is not None
    ]
    return Table.of(
        "RALIF's label permutation: area under the accuracy curve",
        ["contrast", "seeds", "difference (points of accuracy)", "p"],
        rows,
        [_RALIF.format(elements=metric.elements)],
    )
