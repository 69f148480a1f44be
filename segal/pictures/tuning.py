"""The picture of a sweep over tau: a row of three panels for each region size."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from segal.candidates.sweep import Batch, RegionTuning
from segal.pictures.sheet import steady_style

# Of Okabe and Ito's colours, told apart without full colour vision; shapes differ as well.
_UNCERTAIN, _CORESET, _SUGGESTED = "#d55e00", "#0072b2", "#000000"
_INK, _GRID = "#30343a", "#dfe2e6"
_COLORMAP = "viridis"
_WIDTH, _HEIGHT, _DPI = 15.0, 4.4, 96
_MOST_TICKS = 12


def draw_tuning(results: Sequence[RegionTuning], uncertainty: str) -> bytes:
    """Draws a sweep.

    Args:
        results: One for each region size.
        uncertainty: Its name.

    Returns:
        A PNG file.
    """
    with steady_style():
        figure = Figure((_WIDTH, _HEIGHT * len(results)), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(results), 3, squeeze=False)
        for row, result in zip(grid, results, strict=True):
            _trade_off(row[0], result, uncertainty)
            _overlaps(row[1], result, uncertainty)
            _redundancy(row[2], result)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": "segal"})
    return buffer.getvalue()


def _trade_off(axes: Axes, result: RegionTuning, uncertainty: str) -> None:
    """Every batch by its uncertainty and its diversity."""
    x = [b.uncertainty for b in result.batches]
    y = [b.pairwise_distance for b in result.batches]
    axes.plot(x, y, color=_GRID, lw=1.5, zorder=1)
    axes.scatter(x, y, c=np.arange(len(x)), cmap=_COLORMAP, s=42, zorder=3)
    uncertain, coreset = result.references
    for batch, colour, marker, name in (
        (uncertain, _UNCERTAIN, "^", f"most {uncertainty}"),
        (coreset, _CORESET, "s", "CoreSet"),
    ):
        axes.scatter(
            *([batch.uncertainty], [batch.pairwise_distance]),
            s=130,
            facecolors="none",
            edgecolors=colour,
            linewidths=2,
            marker=marker,
            label=name,
            zorder=2,
        )
    chosen = _suggested(result)
    axes.scatter(
        *([chosen.uncertainty], [chosen.pairwise_distance]),
        s=190,
        facecolors="none",
        edgecolors=_SUGGESTED,
        linewidths=1.8,
        label=f"suggested: tau {result.suggestion.tau:g}",
        zorder=4,
    )
    for i in {0, len(x) - 1}:
        axes.annotate(
            f"{result.batches[i].tau:g}",
            (x[i], y[i]),
            textcoords="offset points",
            xytext=(9, 7),
            color=_INK,
        )
    axes.margins(0.12)
    axes.legend(edgecolor="none", framealpha=0.85, fontsize=9)
    _dress(axes, f"region {result.region}: tau along the line, dark to light")
    axes.set_xlabel(f"mean {uncertainty} of the picks")
    axes.set_ylabel("mean pairwise distance of features")


def _overlaps(axes: Axes, result: RegionTuning, uncertainty: str) -> None:
    places = range(len(result.batches))
    for values, colour, marker, style, name in (
        (
            [b.overlap_uncertainty for b in result.batches],
            *(_UNCERTAIN, "^", "-"),
            f"most {uncertainty}",
        ),
        ([b.overlap_coreset for b in result.batches], *(_CORESET, "s", "--"), "CoreSet"),
    ):
        axes.plot(places, values, style, color=colour, marker=marker, ms=6, label=name)
    _along_tau(axes, result, "picks in common with")


def _redundancy(axes: Axes, result: RegionTuning) -> None:
    places = range(len(result.batches))
    for values, colour, marker, style, name in (
        ([b.same_image for b in result.batches], *("#009e73", "o", "-"), "image gave one before"),
        ([b.touching for b in result.batches], *("#cc79a7", "D", "--"), "touches another pick"),
    ):
        axes.plot(places, values, style, color=colour, marker=marker, ms=6, label=name)
    _along_tau(axes, result, "redundant picks")


def _along_tau(axes: Axes, result: RegionTuning, title: str) -> None:
    """Shares against tau, whose values are set side by side."""
    taus = [b.tau for b in result.batches]
    axes.axvline(taus.index(result.suggestion.tau), color=_SUGGESTED, lw=1.2, ls=":")
    every = max(1, -(-len(taus) // _MOST_TICKS))
    axes.set_xticks(range(0, len(taus), every), [f"{tau:g}" for tau in taus[::every]])
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_xlabel("tau (dotted: suggested)")
    axes.legend(edgecolor="none", framealpha=0.85, fontsize=9)
    _dress(axes, title)


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    axes.grid(color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _suggested(result: RegionTuning) -> Batch:
    return next(b for b in result.batches if b.tau == result.suggestion.tau)
