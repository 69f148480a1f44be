"""A review as a file, and the page that saves it."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segal.annotation.review import REASONS, is_review, read_review, selection_key
from segal.candidates.regions import RegionSize
from segal.errors import SegalError
from segal.jobs.annotate.review import MOST_PICKS, _jpeg, _places
from segal.reporting.review import embedded, review_page
from segal.runs.acquisition import next_that_fit
from segal.runs.reviews import Skip, withheld


def test_what_a_skip_withholds():
    skip = Skip("a", (10, 0, 33, 16), "seed", 0, "seed", 1, 0.0, "private")
    found = withheld([skip, skip], {"a": (40, 70)}, RegionSize.parse("32"))
    assert found == {"a": ((0, 0, 32, 32), (32, 0, 64, 32))}


_PICKS = ["a" * 16, "b" * 16, "c" * 16]


def _file(**changed):
    return {
        "segal-review": 1,
        **{"run": "r", "phase": "select", "round": 0, "picks": _PICKS, "order": _PICKS},
        "selection": selection_key(_PICKS),
        "decisions": [{"pick": _PICKS[0], "decision": "skip", "reason": "private"}],
        **changed,
    }


def _read(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return read_review(path)


def test_a_review_is_read(tmp_path):
    path = tmp_path / "r.json"
    review = _read(path, _file(decisions=[
        {"pick": _PICKS[1], "decision": "keep"},
        {"pick": _PICKS[2], "decision": "skip", "reason": "duplicate"},
    ], order=_PICKS[::-1]))  # fmt: skip
    assert review.kept == {_PICKS[1]}
    assert review.skipped == {_PICKS[2]: "duplicate"}
    assert review.order == tuple(_PICKS[::-1])
    assert is_review(path)
    path.write_text("[" + path.read_text() + "]")
    assert not is_review(path)
    assert not is_review(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"segal-review": 2}, "not of a kind that is known"),
        ({"run": 3, "round": "0", "order": [1]}, "run: no such value.*round: no such.*order: no"),
        ({"picks": _PICKS[:1] * 3}, "picks: one is there twice"),
        ({"picks": _PICKS[:2], "order": _PICKS[:2]}, "the picks were changed"),
        ({"order": [*_PICKS[:2], _PICKS[0]]}, "order: not of its picks"),
        ({"order": [*_PICKS, "d"]}, "order: not of its picks"),
        ({"decisions": [3]}, "decision 1: no object"),
        ({"decisions": [{"pick": "d", "decision": "keep"}]}, "of no pick that the page showed"),
        ({"decisions": [{"pick": [], "decision": "keep"}]}, "of no pick that the page showed"),
        ({"decisions": [{"pick": _PICKS[0], "decision": "buy"}]}, "no such decision"),
        ({"decisions": [{"pick": _PICKS[0], "decision": "skip"}]}, "no such reason"),
        ({"decisions": [{"pick": _PICKS[0], "decision": "keep"}] * 2}, "decided before"),
    ],
)
def test_what_is_no_review_is_refused_all_at_once(tmp_path, changed, words):
    with pytest.raises(SegalError, match=f"(?s){words}"):
        _read(tmp_path / "r.json", _file(**changed))


def test_a_review_that_was_cut_is_refused_at_every_length(tmp_path):
    whole = json.dumps(_file())
    for length in range(0, len(whole), 7):
        with pytest.raises(SegalError, match=r"JSON|segal-review"):
            _read(tmp_path / "r.json", whole[:length])


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(changed=st.dictionaries(st.sampled_from(sorted(_file())), _VALUES))
def test_no_content_brings_anything_but_a_message(tmp_path_factory, changed):
    path = tmp_path_factory.mktemp("hostile") / "r.json"
    try:
        _read(path, _file(**changed))
    except SegalError as error:
        assert error.args


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts, self._open = [], {}, ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open = tag

    def handle_data(self, data):
        self.texts.setdefault(self._open, []).append(data)


def test_names_are_text_wherever_they_stand():
    hostile = "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>\u2028&amp;'\""
    data = {"picks": [{"image": hostile}], hostile: 1}
    page = review_page(hostile, hostile, data, ["AAAA"], REASONS).decode()
    plain = _Tags()
    plain.feed(review_page("t", "l", {}, ["AAAA"], REASONS).decode())
    found = _Tags()
    found.feed(page)
    assert found.tags == plain.tags
    said = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    assert json.loads(said) == data
    assert json.loads(embedded(hostile)) == hostile


def test_a_page_runs_its_own_script_and_asks_for_nothing():
    page = review_page("t", "l", {}, ["AAAA"], REASONS).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    for (text,), rule in ((scripts, "script-src"), (styles, "style-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not re.search(r"https?://|url\(|@import|innerHTML|insertAdjacent|eval\(", page)
    assert len({name[0] for name in REASONS} | set("kntus")) == len(REASONS) + 5  # keys differ


def test_pictures_are_no_larger_than_they_may_be():
    noise = np.random.default_rng(0).integers(0, 256, (700, 1100, 3), dtype=np.uint8)
    for most in (100_000, 10_000, 3_000):
        data = _jpeg(noise, 960, most)
        assert data is not None
        assert len(data) <= most
    assert _jpeg(noise, 960, 200) is None


def test_places_of_picks():
    assert _places("", 40) == slice(0, 40)
    assert _places("11:20", 40) == slice(10, 20)
    assert _places("31:99", 40) == slice(30, 40)
    with pytest.raises(SegalError, match="several pages"):
        _places("", MOST_PICKS + 1)
    assert _places(f"2:{MOST_PICKS + 1}", 10_000) == slice(1, MOST_PICKS + 1)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    prices=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    left=st.integers(0, 20),
    count=st.integers(0, 4),
    data=st.data(),
)
def test_the_next_that_fit(prices, left, count, data):
    rows = list(range(len(prices)))
    order = data.draw(st.permutations(rows))
    taken = data.draw(st.sets(st.sampled_from(rows)))
    expected, rest = [], left
    for row in order:
        if row not in taken and prices[row] <= rest and len(expected) < count:
            expected.append((row, 0.5))
            rest -= prices[row]
    stream = iter([(row, 0.5) for row in order])
    assert next_that_fit(stream, np.array(prices), taken, left, count) == expected
