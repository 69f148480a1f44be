"""Runs of different protocols are not drawn together."""

from dataclasses import replace

import pytest

from segal.data.images import ImageInfo
from segal.errors import SegalError
from segal.reporting.arms import gather
from segal.reporting.protocol import check_protocol, is_full
from segal.runs.history import read_history
from tests import fake_runs
from tests.fake_runs import make_run


def histories(folder, **changes):
    """An ordinary run, and one with changes."""
    one = make_run(folder / "one", scores=(0.4, 0.5), measured=False)
    other = make_run(folder / "other", **{"scores": (0.4, 0.5), "measured": False} | changes)
    return [read_history(one), read_history(other)]


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": {"name": "uwe", "tau": 0.1}},
        {"region": "image"},
        {"seed": 3},
        {"budget": "12%"},
        {"scores": (0.4, 0.5, 0.6)},
        {"settings": {"measure_picks": False}},
        {"settings": {"train.learning_loss": {"weight": 1.0}}},
    ],
)
def test_what_is_compared_may_differ(tmp_path, changes):
    check_protocol(histories(tmp_path, **changes))


def test_runs_that_trained_more_for_a_strategy_are_an_arm_of_their_own(tmp_path):
    more = {"train.learning_loss": {"weight": 1.0}}
    runs = histories(tmp_path, seed=1, settings=more)
    assert [len(arm.runs) for arm in gather(runs)] == [1, 1]
    assert [len(arm.runs) for arm in gather(histories(tmp_path / "alike", seed=1))] == [2]


@pytest.mark.parametrize(
    ("changes", "key", "values"),
    [
        ({"settings": {"train.lr": 0.02}}, "train.lr", ("0.01", "0.02")),
        ({"settings": {"start": "warm"}}, "start", ("scratch", "warm")),
        ({"seed_set": "3img"}, "seed_set", ("2img", "3img")),
        ({"images": 13}, "the pool", ("12 images", "13 images")),
        ({"classes": ("road", "sky")}, "classes", ("tree", '["road","sky"]')),
        ({"settings": {"data.test": ""}}, "reported on", ("test", "validation")),
    ],
)
def test_another_protocol_is_refused_by_name(tmp_path, changes, key, values):
    pair = histories(tmp_path, **changes)
    with pytest.raises(SegalError) as caught:
        check_protocol(pair)
    (line,) = [line for line in str(caught.value).splitlines() if f"{key}: " in line]
    for value in (*values, str(pair[0].folder), str(pair[1].folder)):
        assert value in line


def test_the_fully_supervised_arm_is_allowed_its_own_training(tmp_path):
    pair = histories(tmp_path, full=True, scores=(0.7,), settings={"train.iterations": 900})
    assert [is_full(history) for history in pair] == [False, True]
    check_protocol(pair)
    check_protocol(pair[::-1])


def test_the_fully_supervised_arm_trains_with_the_same_rate(tmp_path):
    with pytest.raises(SegalError, match=r"train\.lr"):
        check_protocol(histories(tmp_path, full=True, scores=(0.7,), settings={"train.lr": 0.5}))


def test_no_budget_alone_is_not_full_supervision(tmp_path):
    pair = histories(tmp_path, scores=(0.4,), settings={"train.iterations": 900})
    assert not is_full(pair[1])
    with pytest.raises(SegalError, match=r"train\.iterations"):
        check_protocol(pair)


def test_other_images_of_the_same_number_and_size_are_refused(tmp_path, monkeypatch):
    one = make_run(tmp_path / "one", scores=(0.4, 0.5), measured=False)
    pool = fake_runs._pool(12)
    infos = tuple(ImageInfo(i.height, i.width, f"other-{i.digest}") for i in pool.infos)
    monkeypatch.setattr(fake_runs, "_pool", lambda images, *_: replace(pool, infos=infos))
    other = make_run(tmp_path / "other", scores=(0.4, 0.5), measured=False)
    with pytest.raises(SegalError, match="the pool: 12 images"):
        check_protocol([read_history(one), read_history(other)])


def test_other_test_labels_are_refused(tmp_path, monkeypatch):
    one = make_run(tmp_path / "one", scores=(0.4, 0.5), measured=False)
    monkeypatch.setattr(fake_runs, "_CLASS_PIXELS", 9_000)
    other = make_run(tmp_path / "other", scores=(0.4, 0.5), measured=False)
    with pytest.raises(SegalError, match="labels of what is reported on: "):
        check_protocol([read_history(one), read_history(other)])


def test_other_seed_sets_of_one_seed_are_refused(tmp_path, monkeypatch):
    one = make_run(tmp_path / "one", scores=(0.4, 0.5), measured=False)
    seed_set = fake_runs._seed_set

    def another(config, images):
        return seed_set(config.model_copy(update={"seed": 5}), images)

    monkeypatch.setattr(fake_runs, "_seed_set", another)
    other = make_run(tmp_path / "other", scores=(0.4, 0.5), measured=False)
    with pytest.raises(SegalError, match=r"another seed set than that of .*one, at seed 0"):
        check_protocol([read_history(one), read_history(other)])
    alone = make_run(tmp_path / "alone", scores=(0.4, 0.5), measured=False, seed=1)
    check_protocol([read_history(one), read_history(alone)])
