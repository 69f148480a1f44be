"""Random operations on runs lose nothing, and neither do kills; the whole of it is a tool."""

import pytest

from tools.soak import COMMANDS, Soak

_KILLS = 25


def test_a_short_soak(tmp_path):
    soak = Soak(tmp_path, seed=3)
    soak.OPERATIONS = tuple((name, n) for name, n in Soak.OPERATIONS if name != "kill")
    soak.soak(12)
    assert len(soak.done) > 5 and soak.compared["answers"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_random_moments_it_goes_on_and_nothing_is_lost(command, tmp_path):
    soak = Soak(tmp_path, seed=COMMANDS.index(command))
    soak.kill_each(command, _KILLS)
    assert soak.kills[command] == _KILLS
