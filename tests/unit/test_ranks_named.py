"""What launchers set in the environment is read as a user's input."""

import pytest

from segal.errors import SegalError
from segal.system import launched, ranks


@pytest.fixture
def all_ranks(monkeypatch):
    monkeypatch.setattr(ranks, "_end_with_launcher", lambda: None)  # not these tests' own
    return ranks.all_ranks.__wrapped__


@pytest.mark.parametrize(
    ("name", "value"), [("WORLD_SIZE", "two"), ("RANK", "first"), ("LOCAL_RANK", None)]
)
def test_what_is_no_number_is_refused_by_name_or_value(all_ranks, monkeypatch, name, value):
    given = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    for other, number in (given | {name: value}).items():
        if number is None:
            monkeypatch.delenv(other, raising=False)
        else:
            monkeypatch.setenv(other, number)
    with pytest.raises(SegalError, match=value or name):
        all_ranks()


def test_one_process_needs_no_launcher(all_ranks, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.delenv("RANK", raising=False)
    assert all_ranks() == ranks.ALONE


@pytest.mark.parametrize(("text", "count"), [("4", 4), ("four", 1), ("", 1)])
def test_the_command_line_starts_whatever_is_set(monkeypatch, text, count):
    monkeypatch.setenv("SEGAL_TEST_COUNT", text)
    assert launched._number("SEGAL_TEST_COUNT", 1) == count
