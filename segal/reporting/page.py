"""Puts a report together: one HTML file, and its charts and tables as files of their own."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

import jinja2
import numpy as np
from markupsafe import Markup

from segal import __version__
from segal.functional.curves import noise
from segal.reporting import charts, details, embedding, pictures, results
from segal.reporting.arms import Arm, axis_title
from segal.reporting.heat import heat_png
from segal.reporting.tables import Table
from segal.runs.history import Axis

Progress = Callable[[int, int], None]

_TEMPLATE = "page.html.j2"
_WIDE, _NARROW, _SMALL = (880, 430), (350, 300), (262, 205)
_LEAST_POINTS = 2.0
"""Of a score, that a chart shows at least: less is the noise of a seed."""

_NOISE = 4.0
"""Standard deviations between seeds that a chart shows at least: within two of each other curves do
not differ, and must not be stretched to look as if they did."""
_METHOD_NAMES = {"pca": "PCA", "tsne": "t-SNE"}


@dataclass(frozen=True)
class Report:
    """A report that is drawn.

    Attributes:
        html: The page; it asks for nothing from elsewhere.
        files: By name, what is put beside it.
    """

    html: str
    files: Mapping[str, bytes]


@dataclass
class _Drawing:
    """A report at work."""

    arms: Sequence[Arm]
    axis: Axis
    method: embedding.Method
    progress: Progress
    files: dict[str, bytes] = field(default_factory=dict)
    done: int = 0
    total: int = 1

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        random = [arm.name for arm in self.arms if arm.strategy == "random" and not arm.full]
        self.looks = charts.looks(names, random)

    def step(self) -> None:
        self.done += 1
        self.progress(self.done, max(self.total, self.done))

    def keep(self, table: Table, shown: Table | None = None) -> Table:
        """Puts a table's CSV file beside the page, and a picture of it where it has colours.

        Args:
            table: All of it.
            shown: What the page and the picture have room for; all by default.

        Returns:
            What is shown.
        """
        self.files[f"{table.slug}.csv"] = table.as_csv().encode("utf-8", "replace")
        shown = shown or table
        if any(cell.heat is not None for row in shown.rows for cell in row):
            self.files[f"{table.slug}.png"] = heat_png(shown)
        return shown

    def chart(self, chart: charts.Chart, *sizes: tuple[int, int]) -> dict[str, object]:
        """A chart in one size, or in a wide one and one for phones; and its PNG file."""
        self.files[f"{chart.slug}.png"] = charts.png(chart)
        drawn = [Markup(charts.svg(chart, *size)) for size in sizes]  # escaped by matplotlib
        self.step()
        return {"title": chart.title, "drawings": drawn, "file": f"{chart.slug}.png"}


def draw_report(
    arms: Sequence[Arm],
    *,
    axis: Axis,
    method: embedding.Method,
    tables: Sequence[Table],
    statement: str,
    title: str,
    notes: Sequence[str],
    files_folder: str,
    progress: Progress,
) -> Report:
    """Draws the report of runs of one protocol.

    Args:
        arms: At least one, as `gather` gives them.
        axis: Known of all arms.
        method: Of the embedding map.
        tables: Of the comparison, if there is one.
        statement: What the comparison says first, or no text.
        title: Of the page.
        notes: Beside those of the runs.
        files_folder: Name of the folder beside the page, for the reader.
        progress: Called with the number of pictures done and in all.
    """
    drawing = _Drawing(arms, axis, method, progress)
    statistics = details.pick_statistics(arms)
    maps = embedding.embedding_maps(arms, method)
    drawing.total = 1 + len(statistics) * len(_regions(arms)) + sum(len(m.picks) for m in maps) + 1
    drawing.step()
    shown = {
        "title": title,
        "version": __version__,
        "facts": _facts(arms),
        "headline": _headline(
            statement,
            results.headline(arms, axis),
            results.one_class_line(arms),
            results.never_line(arms),
        ),
        "legend": [
            {"name": arm.name, "swatch": _data(charts.swatch(drawing.looks[arm.name]), "png")}
            for arm in arms
            if not arm.full
        ],
        "files_folder": files_folder,
        "notes": [*notes, *details.notes_of(arms)],
        **_result_sections(drawing, tables),
        **_pick_sections(drawing, statistics, maps),
        "costs": drawing.keep(details.cost_table(arms)),
        "seconds": drawing.keep(details.seconds_table(arms)),
        "settings": [drawing.keep(table) for table in details.settings_tables(arms)],
    }
    drawing.files["learning-curves.csv"] = _curves_csv(arms).encode("utf-8", "replace")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = resources.files("segal.reporting").joinpath(_TEMPLATE).read_text("utf-8")
    html = environment.from_string(template).render(shown)
    return Report(html, drawing.files)


def _headline(
    statement: str, lines: Sequence[str], warning: str | None, never: str | None
) -> list[str]:
    """What a comparison was made to find out comes first; the rest was found by looking.

    A warning that concerns all of it comes before both, and behind the first of them what networks
    never predict.
    """
    found = [statement, f"Exploratory: {lines[0]}", *lines[1:]] if statement else list(lines)
    return [line for line in (warning, found[0], never, *found[1:]) if line]


def _facts(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    run = arms[0].runs[0]
    seeds = sorted({len(arm.runs) for arm in arms})
    rounds = sorted({arm.rounds for arm in arms if not arm.full} or {1})
    network = run.configuration.get("model", {})
    parts = [network.get("architecture"), network.get("encoder")]
    facts = [
        ("arms", str(len(arms))),
        ("seeds", _range(seeds)),
        ("rounds", _range(rounds)),
        ("pool", f"{run.pool_images:,} images"),
        ("classes", str(len(run.class_names))),
        ("reported on", run.report_split),
    ]
    named = " ".join(str(part) for part in parts if part)
    return [*facts, ("network", named)] if named else facts


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _result_sections(drawing: _Drawing, tables: Sequence[Table]) -> dict[str, object]:
    arms, axis = drawing.arms, drawing.axis
    equal, penalty = results.standing_table(arms, axis), results.penalty_table(arms)
    for table in (equal, penalty[0]):
        if table is not None:
            drawing.keep(table)
    metric = arms[0].metric
    curves = charts.Chart(
        "learning-curves",
        f"Learning curves: {metric.title} against what the labels cost",
        axis_title(axis, metric),
        f"{metric.title} (%)",
        [_curve(drawing, arm) for arm in results.selecting(arms)],
        {arm.name: float(arm.scores()[:, -1].mean()) for arm in arms if arm.full},
        least_span=max(_LEAST_POINTS, _NOISE * noise(arm.scores() for arm in arms)),
    )
    return {
        "curves": drawing.chart(curves, _WIDE, _NARROW),
        "has_band": any(len(arm.runs) > 1 for arm in arms),
        "most_bands": charts.MOST_BANDS,
        "equal": equal,
        "budgets": drawing.keep(results.budget_table(arms, axis)),
        "comparison": [drawing.keep(table) for table in tables],
        "penalty": penalty[0],
        "penalty_missing": penalty[1],
        "classes": [
            drawing.keep(table, details.hardest(table, len(arms[0].runs[0].class_names)))
            for table in details.class_tables(arms)
        ],
    }


def _curve(drawing: _Drawing, arm: Arm) -> charts.Line:
    band = arm.band()
    costs = arm.costs(drawing.axis).mean(0)
    look = drawing.looks[arm.name]
    return charts.Line(arm.name, look, costs, band.mean, band.low, band.high)


def _pick_sections(
    drawing: _Drawing, statistics: Sequence[details.Statistic], maps: Sequence[embedding.Map]
) -> dict[str, object]:
    arms = drawing.arms
    shown, note = pictures.overlays(arms)
    words = pictures.words_of(arms[0])
    table = details.pick_table(statistics, arms)
    drawing.step()
    return {
        "statistics": [
            {
                "region": region,
                "charts": [
                    drawing.chart(_statistic_chart(drawing, statistic, region), _SMALL)
                    for statistic in statistics
                ],
            }
            for region in _regions(arms)
            if statistics
        ],
        "picks": None if table is None else drawing.keep(table),
        "maps": [_shown_map(drawing, number, m) for number, m in enumerate(maps, 1)],
        "method": _METHOD_NAMES[drawing.method],
        "overlays": [
            {
                "picture": _data(picture.jpeg, "jpeg"),
                "overlay": picture,
                "instead": words.instead.format(
                    image=picture.image, arm=picture.arm, round=picture.round
                ),
                "first": i == 0 or shown[i - 1].arm != picture.arm,
            }
            for i, picture in enumerate(shown)
        ],
        "overlays_note": note,
        "pictures_show": words.shown,
    }


def _regions(arms: Sequence[Arm]) -> list[str]:
    return list(dict.fromkeys(arm.region for arm in arms if not arm.full))


def _statistic_chart(drawing: _Drawing, statistic: details.Statistic, region: str) -> charts.Chart:
    """Of the arms of one region size: batches of another size are not to be compared with them."""
    lines, drawn = [], []
    for arm in drawing.arms:
        if arm.full or arm.region != region:
            continue
        name, values = arm.name, statistic.values[arm.name]
        known = ~np.isnan(values).all(0)
        if not known.any():
            continue
        found = values[:, known]
        drawn.append(found)
        rounds = np.flatnonzero(known).astype(np.float64)
        mean, low, high = np.nanmean(found, 0), np.nanmin(found, 0), np.nanmax(found, 0)
        lines.append(charts.Line(name, drawing.looks[name], rounds, mean, low, high))
    name = f"{region}-{statistic.name}"
    slug = "picks-" + "".join(c if c.isascii() and c.isalnum() else "-" for c in name)[:80]
    title = f"Picks of region size {region}: {statistic.title} by round"
    span = _NOISE * noise(drawn)
    return charts.Chart(
        slug, title, "after round", statistic.title, lines, {}, whole=True, least_span=span
    )


def _shown_map(drawing: _Drawing, number: int, drawn: embedding.Map) -> dict[str, object]:
    panels = []
    for place, (arm, picks) in enumerate(drawn.picks.items(), 1):
        data = embedding.map_png(drawn, arm, drawing.looks[arm])
        drawing.files[f"embedding-{number}-{place:02d}.png"] = data
        panels.append({"arm": arm, "count": len(picks), "picture": _data(data, "png")})
        drawing.step()
    places = np.column_stack([drawn.places, _picked_by(drawn)])
    lines = [",".join(["x", "y", *(f"picked_{i}" for i in range(1, len(panels) + 1))])]
    lines += [",".join(f"{v:.6g}" for v in row) for row in places.tolist()]
    drawing.files[f"embedding-{number}.csv"] = ("\n".join(lines) + "\n").encode()
    return {"map": drawn, "panels": panels}


def _picked_by(drawn: embedding.Map) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(n, arms) with each arm's pick order from 1, and 0 for what it did not pick."""
    order = np.zeros((len(drawn.places), len(drawn.picks)))
    for column, rows in enumerate(drawn.picks.values()):
        order[rows, column] = np.arange(1, len(rows) + 1)
    return order


def _data(picture: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _curves_csv(arms: Sequence[Arm]) -> str:
    """Every point of every run's curve, on all axes."""
    rows = []
    for arm in arms:
        for seed, run in zip(arm.seeds, arm.runs, strict=True):
            for r, score in zip(run.rounds, run.scores, strict=True):
                clicks = "" if r.cost.clicks is None else r.cost.clicks
                rows.append(
                    [
                        *(arm.name, seed, r.number, score, r.share),
                        *(r.cost.regions, r.cost.pixels, r.cost.images, clicks),
                    ]
                )
    key = arms[0].metric.key
    columns = ("arm", "seed", "round", key, "share", "regions", "pixels", "images", "clicks")
    cells = tuple(tuple(details.raw_cell(value) for value in row) for row in rows)
    return Table("learning-curves", "", columns, cells).as_csv()
