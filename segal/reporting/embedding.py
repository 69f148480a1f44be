"""A map of the candidates of one round, with what each strategy picked of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from segal.candidates.table import CandidateTable
from segal.errors import SegalError
from segal.pictures.sheet import steady_style
from segal.reporting.arms import Arm
from segal.reporting.charts import Look
from segal.runs.history import CANDIDATES_FOLDER, History, Round

Method = Literal["pca", "tsne"]
Floats = NDArray[np.float64]

METHODS = ("pca", "tsne")
_FEATURE = "mean_feature"
_MOST_POINTS = {"pca": 4000, "tsne": 2000}
_ALIKE = 1e-3
"""Features whose difference is below this share of their size are of the same network."""


@dataclass
class Map:
    """Candidates of a round in the plane.

    Attributes:
        region: Their size.
        places: (n, 2), in no unit.
        picks: By arm name, rows of `places`.
        round: Which round.
        seed: Of the runs.
        shown: How many candidates are drawn.
        total: How many there are.
    """

    region: str
    places: Floats
    picks: dict[str, NDArray[np.int64]]
    round: int
    seed: int
    shown: int
    total: int


@dataclass
class _Scene:
    """Candidates that several arms saw through the same network."""

    table: CandidateTable
    region: str
    round: int
    seed: int
    picks: dict[str, NDArray[np.int64]] = field(default_factory=dict)


def embedding_maps(arms: Sequence[Arm], method: Method) -> list[Map]:
    """Maps of the first round that was picked in, of the lowest seed that all arms share.

    In that round the networks of arms with the same seed set are the same, so that one map can
    show what each of them picked of the same candidates; arms whose candidates differ get a map of
    their own. Where no features were measured there is none.

    Args:
        arms: All of them.
        method: `pca`, or `tsne`; either gives the same places every time.

    Returns:
        A map for every region size, or more.
    """
    compared = [arm for arm in arms if not arm.full]
    shared = set.intersection(*(set(arm.seeds) for arm in compared)) if compared else set()
    scenes: list[_Scene] = []
    for arm in compared:
        seed = min(shared) if shared else arm.seeds[0]
        run = arm.of_seed(seed) or arm.runs[0]
        found = _candidates(run)
        if found is None:
            continue
        table, first = found
        scene = next((s for s in scenes if s.region == arm.region and _alike(s.table, table)), None)
        if scene is None:
            scene = _Scene(table, arm.region, first.number, seed)
            scenes.append(scene)
        scene.picks[arm.name] = _rows(table, first)
    return [_project(scene, method) for scene in scenes]


def _candidates(run: History) -> tuple[CandidateTable, Round] | None:
    """The first round's table, where features were measured."""
    first = next((r for r in run.rounds if r.bought), None)
    if first is None:
        return None
    folder = first.folder / CANDIDATES_FOLDER / str(run.configuration["region"])
    try:
        table = CandidateTable.open(folder)
    except SegalError:  # tables may be removed to save room
        return None
    return (table, first) if _FEATURE in table.embeddings and len(table) > 2 else None


def _alike(one: CandidateTable, other: CandidateTable) -> bool:
    """Whether two tables hold the same candidates as the same network saw them."""
    if one.images != other.images or len(one) != len(other):
        return False
    if not (np.array_equal(one.image, other.image) and np.array_equal(one.box, other.box)):
        return False
    rows = _spread(len(one), 200)
    here, there = (np.asarray(t.embeddings[_FEATURE][rows], np.float64) for t in (one, other))
    return here.shape == there.shape and bool(
        np.abs(here - there).max() <= _ALIKE * max(np.abs(here).max(), 1e-12)
    )


def _rows(table: CandidateTable, round: Round) -> NDArray[np.int64]:
    """Rows of what was bought, in pick order."""
    images = {path: i for i, path in enumerate(table.images)}
    keys = zip(table.image.tolist(), map(tuple, table.box.tolist()), strict=True)
    rows = {key: row for row, key in enumerate(keys)}
    wanted = [(images.get(p.image, -1), tuple(p.box)) for p in round.bought]
    return np.array([rows[key] for key in wanted if key in rows], np.int64)


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """At most so many of `count` rows, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _project(scene: _Scene, method: Method) -> Map:
    most = _MOST_POINTS[method]
    picked = np.unique(np.concatenate([*scene.picks.values(), np.zeros(0, np.int64)]))
    kept = np.union1d(_spread(len(scene.table), most), picked[_spread(len(picked), most)])
    features = np.asarray(scene.table.embeddings[_FEATURE][kept], np.float64)
    features = np.nan_to_num(features)
    positions = {row: i for i, row in enumerate(kept.tolist())}
    picks = {
        name: np.array([positions[r] for r in rows.tolist() if r in positions], np.int64)
        for name, rows in scene.picks.items()
    }
    places = plane(features, method)
    return Map(scene.region, places, picks, scene.round, scene.seed, len(kept), len(scene.table))


def plane(features: Floats, method: Method) -> Floats:
    """(n, 2) places of (n, d) features: the same places every time.

    t-SNE starts from the principal components, with perplexity 30, or less for few points.
    """
    count, width = features.shape
    if not np.ptp(features, 0).any():
        return np.zeros((count, 2))
    if width < 2:
        features = np.column_stack([features, np.zeros(count)])
    components = min(count, features.shape[1], 50 if method == "tsne" else 2)
    places: Floats = PCA(components, svd_solver="full").fit_transform(features)
    if method == "tsne" and count > 4:
        perplexity = min(30.0, (count - 1) / 3)
        start = places[:, :2] / max(float(places[:, 0].std()), 1e-12) * 1e-4
        tsne = TSNE(2, perplexity=perplexity, init=start, random_state=0, n_jobs=1)
        places = tsne.fit_transform(places).astype(np.float64)
    return places[:, :2]


def map_png(drawn: Map, arm: str, look: Look, size: int = 340) -> bytes:
    """The map with one arm's picks, as a PNG file of twice `size` pixels a side."""
    with steady_style():
        figure = Figure(figsize=(size / 72, size / 72), dpi=144)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
        dot = float(np.clip(9000 / max(drawn.shown, 1), 3, 26))
        axes.scatter(drawn.places[:, 0], drawn.places[:, 1], s=dot, c="#c3cad3", lw=0)
        places = drawn.places[drawn.picks[arm]]
        axes.scatter(
            places[:, 0],
            places[:, 1],
            s=float(np.clip(6000 / max(len(places), 1), 12, 44)),
            c=look.colour,
            marker="o",
            edgecolors="white",
            lw=0.5,
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.margins(0.04)
        for spine in axes.spines.values():
            spine.set_color("#d5dae1")
        buffer = BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
