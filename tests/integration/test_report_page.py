"""`segal report` from the command line: the page, what is beside it, and what it refuses."""

import json
import re
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from segal.errors import SegalError
from segal.jobs.comparing.report import write_report
from segal.runs.run_folder import LEDGER_FILE
from tests.fake_runs import make_comparison, make_run

HOSTILE = '<script>alert("x")</script>&amp;\'"'
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that every element is closed in its order, and collects what a page may do harm by."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.tags, self.attributes, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """A comparison of four arms and two seeds with an analysis, and its report."""
    folder = tmp_path_factory.mktemp("comparisons") / "camvid"
    make_comparison(
        folder,
        {
            name: given | {"absent": ("sign",)}
            for name, given in {
                "random": {"strategy": "random", "lift": 0.01},
                "uwe": {"scores": (0.4, 0.53, 0.6), "lift": 0.01},
                "uwe-images": {"region": "image", "scores": (0.4, 0.49, 0.55)},
                "full": {"full": True, "scores": (0.7,), "settings": {"train.iterations": 300}},
            }.items()
        },
    )
    table = {
        "title": f"Primary contrast {HOSTILE}",
        "columns": ["pair", "p"],
        "rows": [["uwe, random", 0.0123]],
        "notes": ["Holm"],
    }
    (folder / "comparison.json").write_text(json.dumps({"tables": [table]}))
    return folder, write_report([folder], folder / "report.html")


@pytest.fixture
def no_charts(monkeypatch):
    """Pages of which the words alone are read have no charts, which take longest."""
    monkeypatch.setattr("segal.reporting.charts.svg", lambda *_: "<svg></svg>")
    monkeypatch.setattr("segal.reporting.charts.png", lambda *_: b"")
    monkeypatch.setattr("segal.reporting.page.heat_png", lambda *_: b"")


def test_the_page_is_whole_and_asks_for_nothing(comparison):
    text = comparison[1].read_text()
    page = Page(text)
    bare = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"(?i)https?:|//|@import|url\((?!#)", bare)
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    for name, value in page.attributes:
        if name in ("src", "href"):
            assert value.startswith(("data:image/", "#"))
            assert not value.startswith("#") or value[1:] in page.ids
    assert len(page.ids) == len(set(page.ids))
    assert len(text) < 8_000_000
    images = re.findall(r"<img [^>]*>", text)
    assert images and all(' alt="' in image and ' width="' in image for image in images)


def test_the_page_says_what_the_runs_came_to(comparison):
    words = Page(comparison[1].read_text()).words
    assert "Results of camvid" in words
    assert "uwe is ahead at 33.3 % of the pool's pixels" in words
    for part in (
        *("Arms at equal cost", "at the end of each budget", "Who beats whom", "IoU by class"),
        *("Map of the candidates", "Statistics of the picks", "What the labels cost"),
        *("Seconds by phase", "Settings that all runs share", "fingerprint"),
        *("worse than random", "absent", "bands reach from the lowest to the highest seed"),
        *("Primary contrast", "Holm", "full 70.0"),
    ):
        assert part in words, part


def test_every_chart_and_table_lies_beside_it(comparison):
    beside = comparison[0] / "report_files"
    names = {path.name for path in beside.iterdir()}
    assert {
        *("learning-curves.png", "learning-curves.csv", "equal-cost.csv", "budgets.csv"),
        *("penalty-matrix.csv", "iou-last-round.csv", "iou-by-round-01.csv", "costs.csv"),
        *("seconds.csv", "runs.csv", "settings.csv", "picks.csv", "comparison-01.csv"),
        *("picks-64-uncertainty.png", "picks-image-log-determinant.png", "embedding-1-01.png"),
        *("penalty-matrix.png", "iou-last-round.png", "iou-by-round-03.png", "seconds.png"),
    } <= names
    for path in beside.glob("*.png"):
        assert cv2.imread(str(path)).std() > 1, path
    curves = np.genfromtxt(
        beside / "learning-curves.csv", delimiter=",", names=True, dtype=None, encoding="utf-8"
    )
    assert len(curves) == 3 * 2 * 3 + 2
    uwe = curves[(curves["arm"] == "uwe") & (curves["seed"] == 1)]
    np.testing.assert_allclose(uwe["miou"], [0.41, 0.54, 0.61], atol=1e-3)


def test_the_same_runs_give_the_same_page(comparison, tmp_path):
    folder, page = comparison
    again = write_report([folder], tmp_path / "report.html")
    assert again.read_bytes() == page.read_bytes()
    for path in (folder / "report_files").iterdir():
        assert (tmp_path / "report_files" / path.name).read_bytes() == path.read_bytes()


def test_hostile_names_are_shown_as_text(tmp_path):
    folder = tmp_path / '<img src=x onerror="alert(1)">'
    run = make_run(
        folder,
        classes=(HOSTILE, "</td></table>", "{{ 7 * 7 }}"),
        notes=[HOSTILE],
        scores=(0.4, 0.5),
    )
    overlay = next((run / "rounds" / "000" / "overlays").iterdir())
    overlay.rename(overlay.with_name('0001_"><svg onload=alert(1)>.png'))
    page = write_report([run], tmp_path / "a.html")
    parsed = Page(page.read_text())
    assert "script" not in parsed.tags
    assert not any(name.startswith("on") for name, _ in parsed.attributes)
    assert "beside the map that shows where the network was unsure" in parsed.words
    for name in (HOSTILE, "</td></table>", "{{ 7 * 7 }}", '"><svg onload=alert(1)>'):
        assert name in parsed.words


def test_several_runs_from_the_command_line(segal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a", scores=(0.4, 0.5))
    make_run(tmp_path / "b", scores=(0.41, 0.52), seed=1)
    code, out, err = segal("report", "a", "b", "--axis", "clicks", "--embedding", "tsne")
    assert code == 0, err
    assert out == "report.html\n" and "Drawing the report" in err
    words = Page((tmp_path / "report.html").read_text()).words
    assert "Results of 2 runs" in words and "t-SNE of mean features" in words
    assert "polygon clicks" in words
    code, out, err = segal("report", "a", "b", "--axis", "regions")
    assert code == 0, "a report may take the place of an earlier one"
    assert "regions bought" in Page((tmp_path / "report.html").read_text()).words


def test_one_unmeasured_round_is_enough_for_a_page(tmp_path):
    run = make_run(tmp_path / "run", scores=(0.4,), measured=False)
    words = Page(write_report([run], run / "report.html").read_text()).words
    assert "mIoU of 40.0 %" in words and "No map of the candidates" in words
    assert "No pictures were drawn" in words and "No pairwise penalty matrix" in words


@pytest.mark.usefixtures("no_charts")
def test_the_primary_contrast_is_said_first_and_the_rest_is_exploratory(comparison, tmp_path):
    folder = tmp_path / "camvid"
    shutil.copytree(comparison[0] / "runs", folder / "runs")
    values = {"tables": [], "statement": f"Primary: {HOSTILE}.", "missing": ["full, seed 1"]}
    values["runs"] = {"random": [0, 1], "uwe": [0], "full": [0, 1]}
    (folder / "comparison.json").write_text(json.dumps(values))
    page = Page(write_report([folder], folder / "report.html").read_text())
    assert page.words.index(f"Primary: {HOSTILE}.") < page.words.index("Exploratory: uwe is ahead")
    assert "uwe, seed-1: no longer a run of the comparison, and left out." in page.words
    assert "uwe-images, seed-0: no longer a run" in page.words
    assert "are older than full, seed-1: give segal compare again." in page.words
    values["runs"] = {"random": 3}  # damaged: all runs are shown
    (folder / "comparison.json").write_text(json.dumps(values))
    assert "no longer" not in write_report([folder], folder / "report.html").read_text()


@pytest.mark.usefixtures("no_charts")
def test_runs_of_a_comparison_that_are_not_finished_are_left_out(comparison, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(comparison[0], folder)
    (folder / "runs" / "uwe" / "seed-1" / "summary.json").unlink()
    words = Page(write_report([folder], tmp_path / "r.html").read_text()).words
    assert "uwe, seed-1: not finished, and left out." in words
    arms = {path.parent.name: [0, 1] for path in folder.glob("runs/*/seed-0")}
    values = {"runs": {**arms, "uwe": [0, 1, 2]}, "missing": ["uwe, seed 1", "uwe, seed 2"]}
    (folder / "comparison.json").write_text(json.dumps(values))
    words = Page(write_report([folder], tmp_path / "r.html").read_text()).words
    assert "uwe, seed-1: not finished, and left out." in words
    assert "uwe, seed-2: not begun, and left out." in words
    for file in folder.rglob("summary.json"):
        file.unlink()
    with pytest.raises(SegalError, match="no run of this comparison is finished"):
        write_report([folder], tmp_path / "r.html")


@pytest.mark.parametrize(
    ("make", "arguments", "expected"),
    [
        (lambda folder: None, ["nowhere"], "not a run folder of segal"),
        (lambda folder: (folder / "empty").mkdir(), ["empty"], "not a run folder of segal"),
        (
            lambda folder: make_run(folder / "a", scores=(0.4,), measured=False),
            ["a", "a/../a", "--axis", "money"],
            "axis: no such choice",
        ),
        (
            lambda folder: make_run(folder / "a", scores=(0.4,), measured=False),
            ["a", "--embedding", "umap"],
            "embedding: no such choice",
        ),
        (
            lambda folder: make_run(folder / "a", scores=(0.4,), measured=False, clicks=False),
            ["a", "--axis", "clicks"],
            "axis clicks: not known",
        ),
        (
            lambda folder: make_run(folder / "a", scores=(), measured=False),
            ["a"],
            "no round has been evaluated yet",
        ),
        (
            lambda folder: make_run(folder / "a", scores=(0.4,), measured=False),
            ["a", "--out", f"a/{LEDGER_FILE}"],
            "not a page to write",
        ),
        (
            lambda folder: make_comparison(folder / "c", {"x": {"scores": (0.4,)}}, (0,)),
            ["c", "c/runs/x/seed-0"],
            "a comparison, among other folders",
        ),
    ],
)
def test_mistakes_are_explained(segal, tmp_path, monkeypatch, make, arguments, expected):
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    code, out, err = segal("report", *arguments)
    assert code == 2 and out == ""
    assert expected in err and "remedy:" in err and "Traceback" not in err
    assert not list(tmp_path.rglob("*.html"))


def test_other_protocols_are_not_drawn_together(segal, tmp_path):
    make_run(tmp_path / "a", scores=(0.4,), measured=False)
    make_run(tmp_path / "b", scores=(0.4,), measured=False, seed=1, settings={"train.lr": 0.5})
    code, _, err = segal("report", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "r.html")
    assert code == 2 and "train.lr: 0.01 in" in err and not (tmp_path / "r.html").exists()


def test_files_of_others_are_not_replaced(segal, tmp_path):
    run = make_run(tmp_path / "run", scores=(0.4,), measured=False)
    other = run / "report_files" / "thesis.txt"
    other.parent.mkdir()
    other.write_text("years of work")
    code, _, err = segal("report", run)
    assert code == 2 and "there is something else already" in err
    assert other.read_text() == "years of work"
