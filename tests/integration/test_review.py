"""Picks are looked at before they are handed out; the next of the order takes a skipped one's."""

import csv
import json
import re
import shutil

import pytest
import torch

from segal.annotation.formats import FORMATS
from segal.annotation.handout import MANIFEST_FILE
from segal.annotation.manifest import read_manifest_text
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint
from segal.runs.ledger import Ledger
from segal.runs.returns import returns_of
from segal.runs.reviews import skips_of
from tests.classified import make_folders
from tests.desk import Desk, draw_scenes, painted
from tests.reviewed import page_data, write_review
from tools.web_browser import CHROMIUM, DRIVER, open_browser

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver"
)
_NETWORK = "tests.tiny_network:build"
_CLASSES = ("road", "sky", "car")
_HOSTILE = "<img src=x onerror=alert(1)>&'\"\u2028.png"


@pytest.fixture
def desk(monkeypatch):
    made = Desk()
    monkeypatch.setitem(FORMATS, "desk", made)
    return made


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Six images to label and two that are labelled, of a size that no region divides."""
    return draw_scenes(tmp_path_factory.mktemp("scenes"), _CLASSES)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "model.safetensors"
    torch.manual_seed(0)
    save_checkpoint(build_model(make_spec(_NETWORK, "resnet18", _CLASSES)).eval(), path)
    return path


@pytest.fixture
def select(segal, scenes, network, tmp_path):
    def made(name, *further):
        out = tmp_path / name
        code, _, stderr = segal(
            *("select", "--images", scenes / "images/train", "--checkpoint", network),
            *("--arch", _NETWORK, "--region", "32", "--overlays", "0", "--out", out, *further),
        )
        assert code == 0, stderr
        return out

    return made


def _rows(run):
    with (run / "selection.csv").open(newline="") as file:
        return [(r["image"], r["x"], r["y"], r["score"]) for r in csv.DictReader(file)]


def _pixels(run):
    with (run / "selection.csv").open(newline="") as file:
        return [int(row["pixels"]) for row in csv.DictReader(file)]


def _page(segal, run, *further):
    code, stdout, stderr = segal("review", run, *further)
    assert code == 0, stderr
    return run.parent / stdout.strip()


def _export(segal, run, out):
    code, _, stderr = segal("export", run, "--to", "desk", "--out", out)
    assert code == 0, stderr
    return read_manifest_text((out / MANIFEST_FILE).read_text(), "")


@pytest.mark.parametrize("strategy", ["uwe", "random"])
def test_the_next_of_the_order_takes_the_place(segal, select, tmp_path, strategy):
    run = select("run", "--strategy", strategy, "--budget", "6")
    longer = _rows(select("longer", "--strategy", strategy, "--budget", "14"))
    assert _rows(run) == longer[:6]
    page = _page(segal, run)
    review = write_review(
        tmp_path / "r.json", page, {1: "private", 4: "blurred"}, kept=[0], order=[2, 0, 1, 3, 4, 5]
    )
    code, stdout, stderr = segal("import", run, review, "--dry-run")
    assert (code, "dry run" in stderr) == (0, True)
    assert _rows(run) == longer[:6]
    code, stdout, stderr = segal("import", run, review)
    assert code == 0, stderr
    assert "1 picks are kept, 2 skipped (1 private, 1 blurred), 2 took their place" in " ".join(
        stderr.split()
    )
    wanted = [longer[i] for i in (2, 0, 3, 5, 6, 7)]
    assert _rows(run) == wanted
    assert [line.split()[0] for line in stdout.splitlines()] == ["5", "6"]
    code, stdout, stderr = segal("validate", run)
    assert code == 0, stderr
    code, stdout, _ = segal("status", run)
    assert "Skipped in review of round 0" in stdout
    assert "1 blurred, 1 private" in stdout
    # Pictures and the summary say the same, and the same command has nothing to do.
    assert json.loads((run / "summary.json").read_text())["counts"]["picks"] == 6
    # The same again changes nothing; what was skipped does not come back.
    before = (run / "ledger.sqlite").read_bytes()
    code, _, stderr = segal("import", run, review)
    assert (code, "nothing has changed" in stderr) == (0, True)
    assert (run / "ledger.sqlite").read_bytes() == before
    again = write_review(tmp_path / "s.json", _page(segal, run), dict.fromkeys(range(6), "blurred"))
    assert segal("import", run, again)[0] == 0
    assert _rows(run) == longer[8:]
    with Ledger.read(run) as ledger:
        assert len(skips_of(ledger)) == 8


@pytest.mark.parametrize("fit", ["skip", "prefix"])
def test_a_budget_is_never_overshot(segal, select, tmp_path, fit):
    """Regions cost 168 to 1024 pixels: the next that fits is not always the next."""
    given = ("--strategy", "entropy", f"budget_fit={fit}")
    run, limit = select("run", *given, "--budget", "20%"), 6 * 60 * 70 // 5
    order = _rows(select("all", *given, "--budget", "36"))
    price = dict(zip(order, _pixels(tmp_path / "all"), strict=True))
    picked, skipped = _rows(run), []
    assert sum(price[p] for p in picked) <= limit
    for place in (1, 0, 2):
        review = write_review(tmp_path / "r.json", _page(segal, run), {place: "duplicate"})
        code, _, stderr = segal("import", run, review)
        assert code == 0, stderr
        skipped.append(picked.pop(place))
        left = limit - sum(price[p] for p in picked)
        for candidate in order:
            if candidate not in picked and candidate not in skipped and price[candidate] <= left:
                picked.append(candidate)
                break
        else:
            assert "0 of 1 places were filled" in " ".join(stderr.split())
        assert _rows(run) == picked
        assert sum(_pixels(run)) <= limit
    assert segal("validate", run)[0] == 0


def test_what_was_handed_out_and_what_came_back(segal, desk, scenes, select, tmp_path):
    run = select("run", "--strategy", "entropy", "--budget", "5")
    handout = _export(segal, run, tmp_path / "handout")
    answers = [painted(task, scenes / "truth/train", _CLASSES) for task in handout.tasks]
    desk.drawn["one"], desk.drawn["all"] = answers[:1], answers
    assert segal("import", run, "one")[0] == 0
    page = _page(segal, run)
    states = [pick["state"] for pick in page_data(page)["picks"]]
    assert states == ["returned", *["handed"] * 4]
    review = write_review(tmp_path / "r.json", page, {0: "private", 1: "private"})
    code, _, stderr = segal("import", run, review)
    assert code == 2
    assert "im" in stderr and "cannot be skipped" in stderr
    with Ledger.read(run) as ledger:
        assert skips_of(ledger) == []
    # Answers move with the ranks of their regions.
    review = write_review(tmp_path / "r.json", page, {1: "private"}, order=[4, 3, 2, 1, 0])
    code, _, stderr = segal("import", run, review)
    assert code == 0, stderr
    assert "1 skipped region had been handed out: tell the annotators" in " ".join(stderr.split())
    with Ledger.read(run) as ledger:
        assert [r.box for r in returns_of(ledger)] == [handout.tasks[0].region]
        assert ledger.purchases()[3].box == handout.tasks[0].region
    # What still comes of it is told, and the others are taken.
    code, _, stderr = segal("import", run, "all")
    assert code == 0, stderr
    assert "was skipped in a review (private); this answer is not taken" in " ".join(stderr.split())
    assert "3 regions came back" in stderr
    code, stdout, _ = segal("status", run)
    assert "1 region to hand out" in stdout
    again = _export(segal, run, tmp_path / "again")
    assert len(again.tasks) == 1
    assert again.tasks[0].key not in handout.by_key
    assert segal("validate", run)[0] == 0


def test_reviews_that_are_refused(segal, select, tmp_path):
    run = select("run", "--strategy", "entropy", "--budget", "5")
    other = select("other", "--strategy", "random", "--budget", "5")
    page, path = _page(segal, run), tmp_path / "r.json"
    _page(segal, other)
    before = (run / "selection.csv").read_bytes()

    def refused(*files):
        code, _, stderr = segal("import", run, *files)
        assert code == 2
        assert (run / "selection.csv").read_bytes() == before
        return " ".join(stderr.split())

    foreign = write_review(tmp_path / "f.json", other / "review.html", {0: "private"})
    bad = write_review(path, page, {0: "ugly", 1: "privat"})
    words = refused(bad, foreign)
    for wanted in ("got: 'ugly'", "did you mean private?", "a review of another run"):
        assert wanted in words
    whole = write_review(path, page, {0: "private"}).read_text()
    path.write_text(whole[: len(whole) // 2])
    assert "no JSON of the kind" in refused(path)
    write_review(path, page, {0: "private"}, selection="0" * 16)
    assert "the picks were changed" in refused(path)
    write_review(path, page, {0: "private"}, phase="buy", round=3)
    assert "expected: of what was bought last: select of round 0" in refused(path)
    good = write_review(path, page, {0: "private"})
    differing = write_review(tmp_path / "g.json", page, {0: "blurred"})
    assert "reviews of the same picks that differ" in refused(good, differing)
    answers = tmp_path / "answers.json"
    answers.write_text("[]")
    assert "import the reviews first" in refused(good, answers)
    write_review(path, page, dict.fromkeys(range(5), "private"))
    # Pages of parts can be taken in one after the other, and one page cannot twice.
    parts = [_page(segal, run, "--picks", p, "--out", tmp_path / f"{p[0]}.html") for p in
             ("1:2", "3:5")]  # fmt: skip
    reviews = [write_review(tmp_path / f"{i}.json", p, {0: "blurred"}) for i, p in enumerate(parts)]
    for review in reviews:
        code, _, stderr = segal("import", run, review)
        assert code == 0, stderr
    stale = write_review(path, page, {1: "private"})
    before = (run / "selection.csv").read_bytes()
    assert "2 picks of it skipped since" in refused(stale)
    for picks in ("0:2", "3:1", "9:10", "x"):
        code, _, stderr = segal("review", run, "--picks", picks)
        assert (code, "FIRST:LAST within 1:5" in stderr) == (2, True)


def _run(segal, scenes, out, *further, seed_set="2img"):
    return segal(
        *("run", "--data", scenes, "--strategy", "entropy", "--region", "32"),
        *("--seed-set", seed_set, "--iterations", "1", "--out", out, "data.validation=val"),
        *(f"model.architecture={_NETWORK}", "train.batch_size=2", "train.crop=32"),
        *("overlays=0", "train.workers=0", "--threads", "1", "--budgets", "3", *further),
    )


def test_a_run_that_waits_for_people(segal, desk, scenes, tmp_path):
    out, truth = tmp_path / "run", scenes / "truth/train"
    assert _run(segal, scenes, out, "--annotate")[0] == 0
    with Ledger.read(out) as ledger:
        seeds = [p.image for p in ledger.purchases()]
    review = write_review(tmp_path / "seed.json", _page(segal, out), {0: "private"})
    code, _, stderr = segal("import", out, review)
    assert code == 0, stderr
    with Ledger.read(out) as ledger:
        now = [p.image for p in ledger.purchases()]
    assert now[0] == seeds[1]
    assert now[1] not in seeds
    skipped = []
    for number in range(2):
        if number:
            page = _page(segal, out)
            before = _rows(out / f"rounds/{number - 1:03d}")
            review = write_review(tmp_path / f"{number}.json", page, {1: "blurred"})
            code, _, stderr = segal("import", out, review)
            assert code == 0, stderr
            after = _rows(out / f"rounds/{number - 1:03d}")
            assert after[:2] == [before[0], before[2]]
            assert after[2] not in before
            skipped.append(before[1])
            code, _, stderr = _run(segal, scenes, out, "--annotate")
            assert code == 0, stderr
            assert "3 regions wait for annotators" in " ".join(stderr.split())
        handout = _export(segal, out, tmp_path / f"handout-{number}")
        desk.drawn["all"] = [painted(task, truth, _CLASSES) for task in handout.tasks]
        assert segal("import", out, "all")[0] == 0
        code, _, stderr = _run(segal, scenes, out, "--annotate")
        assert code == 0, stderr
        assert segal("validate", out)[0] == 0
    assert (out / "summary.json").exists()
    with Ledger.read(out) as ledger:
        bought = {(p.image, p.box) for p in ledger.purchases()}
        gone = {(s.image, s.box) for s in skips_of(ledger)}
        assert len(gone) == 2
        assert not bought & gone
        assert seeds[0] not in {p.image for p in ledger.purchases()}
    simulated = tmp_path / "simulated"
    shutil.copytree(scenes, simulated)
    shutil.copytree(scenes / "truth/train", simulated / "labels/train")
    assert _run(segal, simulated, tmp_path / "sim")[0] == 0
    code, _, stderr = segal("review", tmp_path / "sim")
    assert (code, "segal run --annotate" in stderr) == (2, True)


def test_a_seed_set_that_a_strategy_chose(segal, scenes, tmp_path):
    covering = ("--annotate", "--seed-strategy", "coreset")
    orders = []
    for count, out in (("2img", tmp_path / "run"), ("3img", tmp_path / "more")):
        assert _run(segal, scenes, out, *covering, seed_set=count)[0] == 0
        with Ledger.read(out) as ledger:
            orders.append([p.image for p in ledger.purchases()])
    seeds, longer = orders
    assert longer[:2] == seeds
    out = tmp_path / "run"
    review = write_review(tmp_path / "seed.json", _page(segal, out), {0: "private"})
    code, _, stderr = segal("import", out, review)
    assert code == 0, stderr
    with Ledger.read(out) as ledger:
        assert [p.image for p in ledger.purchases()] == [seeds[1], longer[2]]
    assert segal("validate", out)[0] == 0
    other = next(
        p.name for p in sorted((scenes / "images/train").iterdir()) if p.name not in longer
    )
    assert segal("pool", "withdraw", out, other, "--reason", "asked to")[0] == 0
    review = write_review(tmp_path / "again.json", _page(segal, out), {0: "blurred"})
    code, _, stderr = segal("import", out, review)
    assert (code, "images came or went" in stderr, "Traceback" in stderr) == (2, True, False)


def test_images_that_are_classified(segal, tmp_path):
    folders = make_folders(tmp_path / "folders")
    given = ("--task", "classification", "--images", folders / "train", "--strategy", "random")
    run = tmp_path / "picked"
    assert segal("select", *given, "--budget", "4img", "--out", run)[0] == 0
    assert segal("select", *given, "--budget", "6img", "--out", tmp_path / "more")[0] == 0
    page = _page(segal, run)
    pick = page_data(page)["picks"][0]
    assert pick["box"] == [0, 0, 16, 16]
    assert pick["crop"] is None
    review = write_review(tmp_path / "r.json", page, {0: "duplicate", 2: "blurred"})
    code, _, stderr = segal("import", run, review)
    assert code == 0, stderr
    longer = _rows(tmp_path / "more")
    assert _rows(run) == [longer[i] for i in (1, 3, 4, 5)]
    assert segal("validate", run)[0] == 0


@pytest.mark.slow
@needs_browser
def test_all_regions_of_an_image_are_skipped_at_once(segal, desk, scenes, select, tmp_path):
    run = select("run", "--strategy", "entropy", "--budget", "9")
    handout = _export(segal, run, tmp_path / "handout")
    picked = [row[0] for row in _rows(run)]
    image = next(name for name in picked if picked.count(name) > 2)
    own = [i for i, name in enumerate(picked) if name == image]
    desk.drawn["one"] = [painted(handout.tasks[own[0]], scenes / "truth/train", _CLASSES)]
    assert segal("import", run, "one")[0] == 0
    page = _page(segal, run)
    choose = f"document.querySelectorAll('.item')[{own[1]}].click()"
    with open_browser(tmp_path / "browser") as browser:
        browser.open(page.as_uri())
        browser.run(choose)
        assert browser.text("#whole-label") == f"All {len(own)} of this image"
        browser.click("button.skip-all[data-reason=private]")
        assert f", {len(own) - 1} skipped" in browser.text("#counts")
        assert "but 1 whose label has come back" in browser.text("#state")
        browser.press("u")
        assert ", 0 skipped" in browser.text("#counts")
        browser.run(choose)
        browser.press(("shift", "b"))
        browser.press("s")
        path = browser.saved()
        browser.picture(tmp_path / "page.png")
        alone = next(i for i, name in enumerate(picked) if picked.count(name) == 1)
        browser.run(f"document.querySelectorAll('.item')[{alone}].click()")
        assert browser.run("return document.getElementById('whole').offsetWidth === 0")
    saved = json.loads(path.read_text())
    assert saved["decisions"] == [
        {"pick": saved["picks"][i], "decision": "skip", "reason": "blurred"} for i in own[1:]
    ]
    code, _, stderr = segal("import", run, path)
    assert code == 0, stderr
    assert [row[0] for row in _rows(run)].count(image) >= 1
    with Ledger.read(run) as ledger:
        assert {s.image for s in skips_of(ledger)} == {image}
        assert len(skips_of(ledger)) == len(own) - 1


@pytest.mark.slow
@needs_browser
def test_the_page_in_a_browser(segal, scenes, network, tmp_path):
    """Keys, undo, what is kept in the browser, what is saved; names of files are text."""
    images = tmp_path / "images"
    shutil.copytree(scenes / "images/train", images)
    (images / "im0.png").rename(images / _HOSTILE)
    run = tmp_path / "<b>run"
    code, _, stderr = segal(
        *("select", "--images", images, "--checkpoint", network, "--arch", _NETWORK),
        *("--region", "32", "--overlays", "1", "--strategy", "uwe", "--budget", "6", "--out", run),
    )
    assert code == 0, stderr
    page = _page(segal, run)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page.read_text())
    rows = _rows(run)
    with open_browser(tmp_path / "browser") as browser:
        browser.open(page.as_uri())
        assert browser.text("h1") == "Review of <b>run"
        assert browser.run("return document.images.length > 4")
        assert browser.run(
            "return [...document.images].filter(x => x.src).every(x => x.src.startsWith('data:'))"
        )
        names = browser.run("return [...document.querySelectorAll('.item .name')]"
                            ".map(x => x.textContent)")  # fmt: skip
        assert names == [row[0] for row in rows]
        browser.press("k", "p", "b", "u", ("shift", "down"), "d")
        assert browser.text("#counts").startswith("1 kept, 2 skipped, 3 of 6 to decide")
        browser.press("k")
        # Not saved: leaving asks, and coming back finds all of it.
        assert browser.run(
            "const e = new Event('beforeunload', {cancelable: true});"
            "window.dispatchEvent(e); return e.defaultPrevented"
        )
        browser.press("s")
        saved = json.loads(browser.saved().read_text())
        assert not browser.run(
            "const e = new Event('beforeunload', {cancelable: true});"
            "window.dispatchEvent(e); return e.defaultPrevented"
        )
        browser.open(page.as_uri())
        assert browser.text("#counts").startswith("2 kept, 2 skipped, 2 of 6 to decide")
        # Nothing runs but the page's own script, and nothing is loaded.
        browser.run(
            "const s = document.createElement('script'); s.textContent = 'window.bad = 1';"
            "document.body.append(s); const i = new Image(); i.src = 'http://127.0.0.1:9/x.png';"
            "document.body.append(i);"
        )
        assert browser.run("return window.bad === undefined")
        complaints = " ".join(one["message"] for one in browser.log())
        assert "script-src" in complaints and "img-src" in complaints
        path = browser.saved()
        code, _, stderr = segal("import", run, path)
    assert code == 0, stderr
    assert [(d["pick"], d["decision"], d.get("reason")) for d in saved["decisions"]] == [
        (saved["picks"][0], "keep", None),
        (saved["picks"][1], "skip", "private"),
        (saved["picks"][2], "skip", "duplicate"),
        (saved["picks"][4], "keep", None),
    ]
    assert saved["order"] == [saved["picks"][i] for i in (0, 1, 3, 2, 4, 5)]
    with Ledger.read(run) as ledger:
        assert {s.image for s in skips_of(ledger)} == {rows[1][0], rows[2][0]}
    assert len(_rows(run)) == 6


def test_a_review_that_was_cut_off_is_finished_by_the_same_command(
    segal, select, tmp_path, monkeypatch
):
    given = ("--strategy", "entropy", "--budget")
    run, longer = select("run", *given, "5"), _rows(select("longer", *given, "6"))
    review = write_review(tmp_path / "r.json", _page(segal, run), {2: "blurred"})

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("segal.jobs.annotate.decide._renew", killed)
        assert segal("import", run, review)[0] == 130
    assert _rows(run) == longer[:5]
    assert segal("validate", run)[0] == 2
    select("run", *given, "5")
    assert _rows(run) == [longer[i] for i in (0, 1, 3, 4, 5)]
    assert segal("validate", run)[0] == 0
    code, _, stderr = segal("import", run, review)
    assert (code, "nothing has changed" in stderr) == (0, True)
