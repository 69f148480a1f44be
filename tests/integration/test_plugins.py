"""Strategies of other installed packages; made-up ones lie in a folder on Python's path."""

import json
import sys
import textwrap

import pytest

from tests.integration.test_select import arguments, read_csv

STRATEGY = '''
from typing import ClassVar

import numpy as np
from pydantic.dataclasses import dataclass
from segal.strategies.base import PARAMETERS, Direction, Picks


@dataclass(frozen=True, config=PARAMETERS)
class Last:
    """Picks the last candidates of the table."""

    skip: int = 0
    direction: ClassVar[Direction | None] = None
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "a test"

    def passes(self, context):
        return iter(())

    def select(self, table, labelled, count, generator):
        order = np.roll(np.arange(len(table))[::-1], -self.skip)
        return Picks(order[:count].astype(np.int64), np.ones(count))


no_strategy = 3
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package where Python finds it, with entry points that name strategies."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    installed = []

    def put(package, entries, code=STRATEGY, version="1.2"):
        (site / f"{package}.py").write_text(textwrap.dedent(code))
        information = site / f"{package}-{version}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\n"
                                              f"Version: {version}\n")  # fmt: skip
        lines = [f"{name} = {target}" for name, target in entries.items()]
        text = "\n".join(["[segal.strategies]", *lines])
        (information / "entry_points.txt").write_text(text + "\n")
        installed.append(package)

    yield put
    for package in installed:
        sys.modules.pop(package, None)


def listed(segal):
    code, stdout, stderr = segal("strategies", "--json")
    assert code == 0, stderr
    return {entry["name"]: entry for entry in json.loads(stdout)}, stderr


def test_a_strategy_of_another_package_is_used_by_its_name(segal, image_folder, install, tmp_path):
    install("plugged", {"last_ones": "plugged:Last"})
    call = arguments(image_folder, None, tmp_path / "other", strategy="random", overlays=0)
    assert segal(*call)[0] == 0
    assert "plugged" not in sys.modules  # imported where it is asked for, and not before
    call = arguments(image_folder, None, tmp_path / "run", strategy="last_ones", overlays=0)
    code, _, stderr = segal(*call, "strategy.skip=2")
    assert code == 0, stderr
    ids = [(row["image"], int(row["y"]), int(row["x"])) for row in
           read_csv(tmp_path / "run" / "selection.csv")]  # fmt: skip
    assert ids == sorted(ids, reverse=True)
    code, _, stderr = segal(*call, "strategy.skipp=2")
    assert code == 2 and "did you mean 'skip'?" in stderr
    found, _ = listed(segal)
    assert found["last_ones"]["from"] == "plugged 1.2"
    assert found["last_ones"]["parameters"] == {"skip": 0}
    assert found["random"]["from"] == "segal"
    assert "  from:       plugged 1.2" in segal("strategies")[1]


def test_a_name_that_is_nearly_a_plugin_is_offered(segal, image_folder, install, tmp_path):
    install("plugged", {"last_ones": "plugged:Last"})
    call = arguments(image_folder, None, tmp_path / "run", strategy="last_one")
    code, _, stderr = segal(*call)
    assert code == 2 and "did you mean 'last_ones'?" in stderr
    assert "plugged" not in sys.modules


BROKEN = {
    "does_not_import": ("import nowhere_at_all", "broken:Last", "nowhere_at_all"),
    "ends_python": ("raise SystemExit(0)", "broken:Last", "SystemExit"),
    "has_no_such_class": (STRATEGY, "broken:Lost", "Lost"),
    "is_no_strategy": (STRATEGY, "broken:no_strategy", "3"),
    "is_no_import_path": (STRATEGY, "not an import path", "AttributeError"),
    "needs_a_parameter": (STRATEGY.replace("skip: int = 0", "skip: int"), "broken:Last", "skip"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_one_is_told_with_its_package_and_stops_no_other(segal, install, case):
    code, target, got = BROKEN[case]
    install("broken", {"broken_one": target}, code, version="0.3")
    install("plugged", {"last_ones": "plugged:Last"})
    found, stderr = listed(segal)
    assert {"last_ones", "random", "uwe"} <= found.keys() and "broken_one" not in found
    assert "broken_one" in stderr and "broken 0.3" in stderr and got in stderr
    code, stdout, _ = segal("strategies")
    assert code == 0 and "last_ones" in stdout


def test_a_broken_one_that_is_asked_for_is_a_users_error(segal, image_folder, install, tmp_path):
    install("broken", {"broken_one": "broken:Last"}, "import nowhere_at_all")
    call = arguments(image_folder, None, tmp_path / "run", strategy="broken_one")
    code, _, stderr = segal(*call)
    assert code == 2 and "broken 1.2" in stderr and "Traceback" not in stderr
    assert not (tmp_path / "run").exists()


def test_names_of_segal_and_names_that_two_packages_give_are_taken(
    segal, image_folder, install, tmp_path
):
    install("plugged", {"random": "plugged:Last", "twice": "plugged:Last"})
    install("rival", {"twice": "rival:Last"})
    found, stderr = listed(segal)
    assert found["random"]["from"] == "segal" and "twice" not in found
    assert "given by segal itself" in stderr
    assert stderr.count("given by plugged 1.2 and rival 1.2") == 2
    call = arguments(image_folder, None, tmp_path / "run", strategy="twice", overlays=0)
    code, _, stderr = segal(*call)
    assert code == 2 and "plugged 1.2 and rival 1.2" in stderr
    call = arguments(image_folder, None, tmp_path / "run", strategy="plugged:Last", overlays=0)
    assert segal(*call)[0] == 0


def test_a_damaged_file_of_another_package_does_no_harm(segal, install, tmp_path):
    install("plugged", {"last_ones": "plugged:Last"})
    install("damaged", {})
    file = tmp_path / "site" / "damaged-1.2.dist-info" / "entry_points.txt"
    file.write_text("[segal.strategies]\na line that is no entry\n")
    assert "last_ones" in listed(segal)[0]
    file.write_bytes(b"\xff\xfe[segal.strategies]\n")
    assert "last_ones" in listed(segal)[0]
