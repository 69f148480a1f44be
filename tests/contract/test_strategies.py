"""The contract that every strategy is run through."""

import dataclasses

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from segal.candidates.budget import Allowance
from segal.candidates.table import CandidateTable, box_pixels
from segal.errors import SegalError
from segal.functional.k_center import k_center_greedy
from segal.strategies import STRATEGIES
from segal.strategies.base import PassContext, choose

# Every strategy with its defaults, and each of its modes.
CASES = [
    *((name, {}) for name in STRATEGIES),
    ("random", {"stratify": "image"}),
    ("random", {"stratify": "folder"}),
    ("random", {"draw": 1}),
    ("random", {"foreground": 1 / 3}),
    ("random", {"foreground": 1.0, "background": 2}),
    ("entropy", {"reduction": "max"}),
    ("entropy", {"reduction": "sum"}),
    ("coreset", {"selector": "k_means_plusplus"}),
    ("coreset", {"init": "max_norm"}),
    ("uwe", {"tau": 0.1}),
    ("uwe", {"uncertainty": "bvsb", "normalize": "minmax", "init": "max_norm"}),
    ("uwe", {"selector": "k_means_plusplus"}),
    ("uwe", {"class_wise": "max"}),
    ("uwe", {"class_wise": "mean", "tau": 0.1, "init": "max_norm"}),
    ("learning_loss", {"subset": "30%"}),
    ("learning_loss", {"subset": 10}),
    ("vaal", {"steps": 200, "latent": 8, "adversary": 10.0}),
    ("ta_vaal", {"steps": 200, "latent": 8, "adversary": 10.0}),
    ("badge", {"init": "labelled"}),
    ("badge", {"selector": "k_center"}),
    ("gradnorm", {"layers": "last_two"}),
    ("mc_dropout", {"samples": 3, "reduction": "sum"}),
    ("bald", {"reduction": "max"}),
    ("error_change_first_order", {"layers": "last", "reduction": "sum"}),
    ("isal", {"reference": "labelled", "top_k": 3, "layers": "last_two"}),
    ("isal", {"reference": "initial", "inverse": "lissa", "weighted": True}),
    ("grad_similarity", {"reference": "initial"}),
    ("ralif", {"classes": "single", "baseline": "drop", "diversity": "none"}),
    ("ralif", {"classes": "expectation"}),
    ("ralif", {"candidate_fraction": 0.5, "diversity": "k_means", "clusters": 5}),
    ("ralif", {"candidate_fraction": 0.5, "diversity": "mean_shift"}),
    ("error_change", {"reduce": "all", "holdout_pixels": 0}),
    ("error_change", {"layers": "all", "holdout_pixels": 20}),
    ("error_change", {"holdout_per_class": 3, "prefilter": 0.25}),
    ("localization_stability", {"levels": 2, "step": 4.5}),
    ("cald", {"base": 1.0, "delta": 3.0}),
    ("pixbal", {"nu": 12.0, "bvsb_temperature": 0.1}),
    ("clasp", {"share": 1.0, "beta": 1e6, "background": 0}),
    ("clasp", {"share": 0.0}),
    ("max_herding", {"sigma": 0.3, "normalize": "none"}),
    ("uherding", {"temperature": 2.0, "sigma": 0.5, "uncertainty": "entropy"}),
    ("typiclust", {"distance": "squared", "smallest": 6, "clusters": 4, "neighbours": 3}),
    ("prob_cover", {"delta": 0.6}),
    ("prob_cover", {"purity": 0.5, "clusters": 3, "normalize": "none"}),
    ("drop_query", {"rate": 0.5, "samples": 5}),
    ("enms_divproto", {"enms": 0.3, "intra": -0.2, "inter": 0.5, "alpha": 1.0, "beta": 1.0}),
]
every_case = pytest.mark.parametrize(("name", "parameters"), CASES)


# Columns that hold an embedding, by how they begin, and its size in the tables made here.
EMBEDDINGS = {
    "mean_feature": 8,
    "gradient-": 12,
    "class_profiles": 9,
    "class_wise-": 6,
    "view_classes": 3,
    "labelled_objects": 3,
    "class_scores": 3,
    "box_prototypes": 12,
    "mean_softmax-": 3,
    "by_class-": 3,
    "weighted_by_class-": 3,
    "predicted_shares": 3,
    "predicted_borders": 3,
}
PLAN_AHEAD = {"cald", "enms_divproto", "typiclust", "drop_query"}
"""What these pick first depends on how many they pick."""


def embedding_size(column):
    """0 for a column of values."""
    return next((size for start, size in EMBEDDINGS.items() if column.startswith(start)), 0)


def make(name, parameters):
    return TypeAdapter(STRATEGIES.get(name)).validate_python(parameters)


def made_table(strategy, images=6, seed=0):
    """Random measurements of 12 regions in each image, for the signals that a strategy names."""
    rng = np.random.default_rng(seed)
    side = 20
    cells = [(x, y) for y in range(3) for x in range(4)]
    box = np.array(
        [(x * side, y * side, (x + 1) * side - (x == 3) * 7, (y + 1) * side) for x, y in cells],
        np.int32,
    )
    n = images * len(cells)
    # Passes may depend on the tables of those before them.
    context = PassContext()
    columns = []
    boxes = np.tile(box, (images, 1))
    paths = tuple(f"{'ab'[i % 2]}/{i}.png" for i in range(images))
    image = np.repeat(np.arange(images, dtype=np.int32), len(cells))
    table = CandidateTable(paths, image, boxes, box_pixels(boxes))
    for signals in strategy.passes(context):
        columns = sorted({signal.column for signal in signals})
        table = CandidateTable(
            images=paths,
            image=image,
            box=boxes,
            pixels=box_pixels(boxes),
            values={c: rng.gamma(0.5, size=n) for c in columns if not embedding_size(c)},
            embeddings={
                c: rng.standard_normal((n, embedding_size(c))).astype(np.float32)
                for c in columns
                if embedding_size(c)
            },
        )
        context.tables.append(table)
    return table


def pick(strategy, table, labelled, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return strategy.select(table, labelled, count, generator)


def test_a_strategy_is_known_by_the_name_that_it_says():
    kinds = {name: STRATEGIES.get(name) for name in STRATEGIES}
    assert {name: kind.name for name, kind in kinds.items()} == {name: name for name in kinds}
    assert len(set(kinds.values())) == len(kinds)


@every_case
def test_picks_are_distinct_finite_and_deterministic(name, parameters):
    strategy = make(name, parameters)
    table, labelled = made_table(strategy), made_table(strategy, images=1, seed=1)
    picks = pick(strategy, table, labelled, 30)
    assert picks.rows.dtype == np.int64
    assert picks.scores.dtype == np.float64
    assert len(set(picks.rows.tolist())) == 30
    assert picks.rows.min() >= 0
    assert picks.rows.max() < len(table)
    assert np.isfinite(picks.scores).all()
    again = pick(strategy, table, labelled, 30)
    assert np.array_equal(picks.rows, again.rows)
    assert np.array_equal(picks.scores, again.scores)


@every_case
def test_fewer_picks_are_a_prefix_and_all_can_be_had(name, parameters):
    strategy = make(name, parameters)
    table, labelled = made_table(strategy), made_table(strategy, images=1, seed=1)
    whole = pick(strategy, table, labelled, len(table))
    assert sorted(whole.rows.tolist()) == list(range(len(table)))
    if name not in PLAN_AHEAD:
        assert np.array_equal(pick(strategy, table, labelled, 7).rows, whole.rows[:7])


@every_case
def test_works_with_nothing_labelled_and_leaves_the_table_alone(name, parameters):
    strategy = make(name, parameters)
    table = made_table(strategy)
    before = {c: v.copy() for c, v in {**table.values, **table.embeddings}.items()}
    nothing = table.view(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert len(pick(strategy, table, nothing, 5).rows) == 5
    for column, values in {**table.values, **table.embeddings}.items():
        assert np.array_equal(values, before[column])


@every_case
def test_what_is_not_on_offer_is_never_picked(name, parameters):
    strategy = make(name, parameters)
    table = made_table(strategy)
    rows = np.arange(3, len(table), 2)
    offered = table.view(rows, table.pixels[rows])
    labelled = table.view(np.arange(3), table.pixels[:3])
    allowance = Allowance(3000, "pixels")
    picks = choose(strategy, offered, labelled, allowance, torch.Generator().manual_seed(0))
    spent = np.cumsum(offered.pixels[picks.rows])
    assert len(picks.rows) > 0
    assert spent[-1] <= 3000
    if name in PLAN_AHEAD:
        return
    more = pick(strategy, offered, labelled, len(picks.rows) + 1)
    assert offered.pixels[more.rows].sum() > 3000


@every_case
def test_prices_that_nobody_knows_before_say_where_the_order_is_cut_and_no_more(name, parameters):
    strategy = make(name, parameters)
    table, labelled = made_table(strategy), made_table(strategy, images=1, seed=1)
    prices = np.random.default_rng(2).integers(0, 5, len(table))
    allowance = Allowance(24, "boxes", "boxes")

    def chosen(prices):
        generator = torch.Generator().manual_seed(0)
        return choose(strategy, table, labelled, allowance, generator, prices, planned=3)

    picks = chosen(prices)
    assert len(set(picks.rows.tolist())) == len(picks.rows) == len(picks.scores) > 3
    assert prices[picks.rows].sum() <= 24
    dear = np.full(len(table), 25)
    dear[picks.rows] = prices[picks.rows]
    assert np.array_equal(chosen(dear).rows, picks.rows)
    if name not in PLAN_AHEAD:
        order = pick(strategy, table, labelled, len(table)).rows
        within = int((np.cumsum(prices[order]) <= 24).sum())
        assert np.array_equal(picks.rows, order[:within])
    free = chosen(np.zeros(len(table), np.int64))
    assert sorted(free.rows.tolist()) == list(range(len(table)))


@every_case
def test_declares_itself_and_refuses_what_it_does_not_know(name, parameters):
    strategy = make(name, parameters)
    assert strategy.direction in {"higher", "lower", None}
    assert isinstance(strategy.uses_reference_labels, bool)
    assert strategy.source
    assert type(strategy).__doc__
    assert dataclasses.is_dataclass(strategy)
    with pytest.raises(ValidationError):
        make(name, {**parameters, "no_such_parameter": 1})


@pytest.mark.parametrize(
    ("direction", "name"),
    [
        *(("higher", name) for name in ("entropy", "least_confidence", "margin", "bvsb")),
        *(("higher", name) for name in ("mc_dropout", "bald", "gradnorm", "learning_loss")),
        *(
            ("lower", name)
            for name in ("vaal", "ta_vaal", "err_reduction", "localization_stability")
        ),
    ],
)
def test_values_are_picked_from_their_end_lowest_id_first_among_equals(direction, name):
    strategy = make(name, {})
    table = made_table(strategy)
    (values,) = table.values.values()
    values[:] = np.round(values, 1)
    picks = pick(strategy, table, table.view(np.zeros(0, int), np.zeros(0, int)), 40)
    sign = {"higher": -1, "lower": 1}[direction]
    expected = sorted(range(len(table)), key=lambda row: (sign * values[row], row))[:40]
    assert strategy.direction == direction
    assert picks.rows.tolist() == expected
    assert np.array_equal(picks.scores, values[expected])


@pytest.mark.parametrize("selector", ["k_center", "k_means_plusplus"])
@pytest.mark.parametrize("init", ["labelled", "max_norm"])
def test_uwe_at_tau_0_is_coreset_index_for_index(selector, init):
    shared = {"selector": selector, "init": init}
    uwe, coreset = make("uwe", {"tau": 0.0, **shared}), make("coreset", shared)
    table, labelled = made_table(uwe), made_table(uwe, images=1, seed=1)
    table.values["entropy"][4] = 0.0  # 0^0 is 1
    ours, theirs = (pick(s, table, labelled, 50) for s in (uwe, coreset))
    assert np.array_equal(ours.rows, theirs.rows)
    assert np.array_equal(ours.scores, theirs.scores)


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_uwe_picks_do_not_depend_on_the_scale_of_the_uncertainty(tau):
    strategy = make("uwe", {"tau": tau})
    table, labelled = made_table(strategy), made_table(strategy, images=1, seed=1)
    first = pick(strategy, table, labelled, 50)
    for measured in (table, labelled):
        measured.values["entropy"][:] *= 7.3
    assert np.array_equal(pick(strategy, table, labelled, 50).rows, first.rows)


@pytest.mark.parametrize("beyond", ["table", "labelled"])
def test_uwe_out_of_range_is_told(beyond):
    strategy = make("uwe", {"tau": 100.0})
    tables = {"table": made_table(strategy), "labelled": made_table(strategy, images=1, seed=1)}
    for measured in tables.values():
        measured.values["entropy"][:] = 1.0
    tables[beyond].values["entropy"][3] = 1e3
    with pytest.raises(SegalError, match=r"100 takes the embeddings out of range"):
        pick(strategy, *tables.values(), 5)


def test_uwe_is_the_product_of_the_means_not_the_mean_of_the_products():
    # Two pixels: certain with a large feature, uncertain with a small one.
    u, f = np.array([0.0, 2.0]), np.array([10.0, 1.0])
    strategy = make("uwe", {"init": "max_norm"})
    table = CandidateTable(
        images=("a.png",),
        image=np.zeros(2, np.int32),
        box=np.array([[0, 0, 2, 1], [2, 0, 4, 1]], np.int32),
        pixels=np.array([2, 2]),
        values={"entropy": np.array([u.mean(), 1.0])},
        embeddings={"mean_feature": np.array([[f.mean()], [3.0]], np.float32)},
    )
    picks = pick(strategy, table, table.view(np.zeros(0, int), np.zeros(0, int)), 1)
    # 1 * 5.5 beats 3; the mean of the products, 1, would not.
    assert picks.rows.tolist() == [0]
    assert picks.scores.tolist() == [5.5]


def test_uwe_equals_k_center_greedy_on_embeddings_made_by_hand():
    strategy = make("uwe", {"tau": 0.5, "normalize": "minmax"})
    table, labelled = made_table(strategy), made_table(strategy, images=1, seed=1)
    u = table.values["entropy"]
    low, high = u.min(), u.max()

    def embed(t):
        weight = np.clip((t.values["entropy"] - low) / (high - low), 0, 1) ** 0.5
        return torch.from_numpy(weight[:, None] * t.embeddings["mean_feature"]).double()

    picks, _ = k_center_greedy(embed(table), 20, embed(labelled))
    assert pick(strategy, table, labelled, 20).rows.tolist() == picks.tolist()


def test_random_stratified_takes_from_every_stratum_in_turn():
    for stratify, strata in (("image", 6), ("folder", 2)):
        strategy = make("random", {"stratify": stratify})
        table = made_table(strategy)
        rows = pick(strategy, table, table.view(np.zeros(0, int), np.zeros(0, int)), 30).rows
        names = [table.images[table.image[row]] for row in rows]
        keys = names if stratify == "image" else [name.split("/")[0] for name in names]
        for start in range(0, 30, strata):
            assert len(set(keys[start : start + strata])) == strata


def test_random_draws_of_a_seed_differ():
    table = made_table(make("random", {}))
    draws = [pick(make("random", {"draw": i}), table, table, 30).rows.tolist() for i in range(3)]
    assert draws[0] != draws[1] != draws[2] != draws[0]


def test_random_needs_no_pass_over_the_pool():
    assert list(make("random", {}).passes(PassContext())) == []
