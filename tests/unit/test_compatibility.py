"""The table of what was tried is what its tool finds."""

import pytest

from tools.compatibility.__main__ import FILE, KINDS, section, written
from tools.compatibility.row import Row


def test_document():
    text = (
        "# Head\n\n" + section("One", "Of it.", [Row("a|b", "c")]) + "\n" + section("Two", "", [])
    )
    assert list(written(text)) == ["One", "Two"]
    assert "| a\\|b | c |\n" in written(text)["One"]
    assert set(written(FILE.read_text())) == {kind.TITLE for kind in KINDS.values()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_was_tried_has_changed(kind):
    kind = KINDS[kind]
    found = section(kind.TITLE, kind.INTRODUCTION, kind.rows())
    assert found == written(FILE.read_text())[kind.TITLE]
