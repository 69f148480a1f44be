"""Picks that are kept apart: the function, the option, and names without numbers."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segal.candidates.table import CandidateTable
from segal.errors import SegalError
from segal.functional.spreading import spread_out
from segal.jobs.comparing import arms
from segal.jobs.strategies import configure_selection
from segal.strategies.base import at_round, check_images
from segal.strategies.clasp import ClassStratifiedPower
from segal.strategies.entropy import Entropy
from segal.strategies.spread import Spread, SpreadOut, spread


def brute_force(order, image, per_image, frames, track, frame):
    """Each against all that were kept before it."""
    kept = []
    for row in order:
        own = image[row]
        same = sum(image[other] == own for other in kept)
        near = any(
            image[other] != own
            and track[image[other]] == track[own]
            and abs(frame[image[other]] - frame[own]) < (frames or 0)
            for other in kept
        )
        if not near and (per_image is None or same < per_image):
            kept.append(row)
    return kept


@pytest.mark.parametrize("per_image", [None, 1, 3])
@pytest.mark.parametrize("frames", [None, 1, 4, 100])
def test_keeps_what_a_loop_over_all_pairs_keeps(per_image, frames):
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(25), 8)
    track, frame = rng.integers(0, 3, 25).tolist(), rng.integers(0, 30, 25).tolist()
    order = rng.permutation(200)
    kept = spread_out(order, image, per_image=per_image, frames=frames, track=track, frame=frame)
    assert order[kept].tolist() == brute_force(order, image, per_image, frames, track, frame)


def table_of(paths, regions=4):
    rng = np.random.default_rng(1)
    image = np.repeat(np.arange(len(paths), dtype=np.int32), regions)
    x = np.tile(np.arange(regions, dtype=np.int32) * 8, len(paths))
    box = np.stack([x, np.zeros_like(x), x + 8, np.full_like(x, 8)], 1)
    values = {"entropy": rng.random(len(image))}
    return CandidateTable(tuple(paths), image, box, np.full(len(image), 64), values)


def pick(strategy, table, count):
    nothing = table.view(np.zeros(0, np.int64), np.zeros(0, np.int64))
    return strategy.select(table, nothing, count, torch.Generator().manual_seed(0))


VIDEO = [f"a/seq_{i:06d}_rgb.png" for i in range(20)] + [f"b/seq_{i:06d}_rgb.png" for i in range(9)]


def test_a_batch_is_not_one_video_and_its_neighbours():
    strategy, table = spread(Entropy(), Spread(per_image=2, frames=5)), table_of(VIDEO)
    picks = pick(strategy, table, 8)
    images = table.image[picks.rows]
    assert np.bincount(images).max() <= 2
    for video in (images[images < 20], images[images >= 20]):
        assert np.diff(np.unique(video)).min(initial=99) >= 5
    assert picks.rows[0] == table.values["entropy"].argmax()
    assert picks.notes == ()
    assert np.array_equal(pick(strategy, table, 3).rows, picks.rows[:3])
    # In the order of the score, whatever was left out in between.
    assert (np.diff(picks.scores) < 0).all()


def test_what_is_near_follows_where_nothing_else_is_left():
    strategy, table = spread(Entropy(), Spread(frames=50)), table_of(VIDEO)
    picks = pick(strategy, table, len(table))
    assert sorted(picks.rows.tolist()) == list(range(len(table)))
    assert picks.notes[0].startswith("108 of 116 picks are nearer to others")
    assert len(set(table.image[picks.rows[:8]].tolist())) == 2
    assert np.array_equal(pick(strategy, table, 20).rows, picks.rows[:20])


@pytest.mark.parametrize(
    ("paths", "apart"),
    [
        (["x_1.png", "x_2.png"], False),
        (["x_1_leftImg8bit.png", "x_2_leftImg8bit.png"], False),  # 8bit is no number of a frame
        (["x_1.png", "y_1.png"], True),
        (["a/1.png", "b/1.png"], True),
        (["f01.png", "f3.png"], True),  # 0 digits apart in the text, 2 in the number
        (["f01.png", "f002.png"], False),
        (["7.png", "07.png"], False),
        (["1_5.png", "2_5.png"], True),
    ],
)
def test_frames_are_told_by_the_last_number_of_a_name(paths, apart):
    table = table_of(paths, regions=1)
    picks = pick(spread(Entropy(), Spread(frames=2)), table, 2)
    assert (picks.notes == ()) == apart


def test_names_without_numbers_are_refused_with_a_remedy():
    paths = ["a/cat.png", "a/dog.png", "a/seq_1.png", "8bit.png", "d1/e.png", "f.png"]
    strategy = spread(Entropy(), Spread(frames=2))
    with pytest.raises(SegalError, match="have no frame number") as caught:
        check_images(strategy, paths)
    assert caught.value.got.startswith("5 of 6 without a number: a/cat.png, a/dog.png, 8bit.png")
    assert "strategy.spread.per_image" in caught.value.remedy
    check_images(spread(Entropy(), Spread(per_image=1)), paths)
    check_images(Entropy(), paths)


def raw(**strategy):
    return {"images": "x", "budget": "1", "out": "y", "strategy": strategy}


def test_the_option_is_of_what_orders_by_a_score():
    _, strategy = configure_selection(raw(name="entropy", spread={"per_image": 2}, reduction="max"))
    assert strategy == SpreadOut(Entropy("max"), Spread(per_image=2))
    assert (strategy.name, strategy.direction) == ("entropy", "higher")
    _, plain = configure_selection(raw(name="entropy", spread=None))
    assert plain == Entropy()
    with pytest.raises(SegalError, match="coreset does not order by a score") as caught:
        configure_selection(raw(name="coreset", spread={"per_image": 2}))
    assert "entropy" in caught.value.expected and "coreset" not in caught.value.expected


def test_all_mistakes_are_told_at_once():
    with pytest.raises(SegalError) as caught:
        configure_selection(
            raw(name="entropy", reduction="no", spread={"frame": 1, "per_image": 0})
        )
    text = str(caught.value)
    for key in ("strategy.reduction", "strategy.spread.frame", "strategy.spread.per_image"):
        assert key in text


def test_a_strategy_with_a_schedule_keeps_it():
    strategy = spread(ClassStratifiedPower(), Spread(per_image=1))
    betas = [at_round(strategy, i, 3).strategy.beta for i in range(3)]
    assert betas == pytest.approx([1, 10, 100])
    assert at_round(Entropy(), 1, 3) == Entropy()


@pytest.mark.parametrize("command", ["select", "plan"])
def test_the_command_line_refuses_before_it_scans(
    segal, image_folder, tmp_path, command, checkpoint
):
    for name, path in zip("xy", sorted(image_folder.rglob("*.png")), strict=False):
        path.rename(path.with_name(f"{name}.png"))
    given = (command, "--images", image_folder, "--region", "32", "--budget", "5")
    given += ("--strategy", "entropy", "--checkpoint", checkpoint, "strategy.spread.frames=2")
    out = ("--out", tmp_path / "out") if command == "select" else ()
    code, _, stderr = segal(*given, *out)
    assert code == 2 and "Traceback" not in stderr
    assert "2 of 7 without a number" in stderr and "leave strategy.spread.frames out" in stderr
    assert not list(tmp_path.rglob("table.json"))


def test_strategies_that_have_the_option_say_so(segal):
    stdout = segal("strategies", "--json")[1]
    told = {one["name"]: one["spread"] for one in json.loads(stdout)}
    assert told["entropy"] == told["pixbal"] == ["per_image", "frames"]
    assert told["coreset"] == told["random"] == []


def test_arms_of_a_comparison_are_looked_at_before_the_first_run(monkeypatch):
    opened = []

    class Pool:
        def __init__(self, config):
            opened.append(config)

        paths = ("a.png", "seq_1.png")

    monkeypatch.setattr(arms, "_Pool", Pool)
    video = spread(Entropy(), Spread(frames=2))
    listed = [
        SimpleNamespace(name=name, strategy=strategy, config=name)
        for name, strategy in (("plain", Entropy()), ("far", video), ("farther", video))
    ]
    with pytest.raises(SegalError) as caught:
        arms.check_pools(listed)
    assert "arms.far: strategy.spread.frames" in str(caught.value)
    assert "arms.farther: strategy.spread.frames" in str(caught.value)
    assert opened == ["far"]
    arms.check_pools(listed[:1])
