"""Contact sheets: images in order and dot for dot, words that fit, and what the tables say."""

import csv
from dataclasses import replace
from types import SimpleNamespace

import cv2
import matplotlib as mpl
import numpy as np
import pytest
import torch

from segal.candidates.evidence import Evidence, Upsampling
from segal.candidates.selection import Selected
from segal.jobs.comparing.report import write_report
from segal.pictures import contact_sheet as sheets
from segal.pictures.contact_sheet import MOST, THUMBNAIL, Line, Tile, contact_sheet, thumbnail
from segal.reporting import pictures
from segal.signals import Value
from segal.tasks.classes import ClassNames
from segal.tasks.classification import drawing, explaining
from segal.tasks.classification.drawing import PICKED_FILE, SHEET_WORDS, draw_contact_sheets
from segal.tasks.classification.explaining import (
    HELPING_FILE,
    HURTING_FILE,
    SCORES_FILE,
    SheetsExplainer,
)
from segal.tasks.classification.pools import open_files, open_rows
from segal.tasks.classification.predicted import predictions
from segal.tasks.drawing import Drawn
from segal.tasks.explaining import Explaining, ScoredImage
from tests.fake_runs import make_run

NAMES = ("cat", "dog", "bird")
LONG = "a very long name of a class, $x^2$ and _more_ of it " * 3


def plain(number: int, side: int = 32) -> np.ndarray:
    """An image in a colour of its own."""
    return np.full((side, side, 3), (number * 37 % 200, number % 256, 255 - number % 256), np.uint8)


SHORT = (Line("#1", "0.5", "bold"), Line("cat", "0.50"))


def tiles(count: int, lines=SHORT) -> list[Tile]:
    return [Tile(thumbnail(plain(i)), lines) for i in range(count)]


@pytest.mark.parametrize("size", [(16, 16), (28, 28), (32, 32), (100, 127), (128, 128), (17, 60)])
def test_every_pixel_of_a_small_image_is_a_square_of_the_same_size(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    shown = thumbnail(image)
    times = shown.shape[0] // size[0]
    assert shown.shape == (size[0] * times, size[1] * times, 3)
    assert max(shown.shape) <= THUMBNAIL < max(size) * (times + 1)
    for y, x in np.ndindex(times, times):
        assert np.array_equal(shown[y::times, x::times], image)


@pytest.mark.parametrize("size", [(129, 129), (900, 300), (40, 8000), (1024, 2048)])
def test_a_large_image_keeps_its_shape_and_its_colours(size):
    shown = thumbnail(np.full((*size, 3), (200, 60, 20), np.uint8))
    assert max(shown.shape) == THUMBNAIL
    expected = max(1, min(size) * THUMBNAIL / max(size))
    assert min(shown.shape[:2]) == pytest.approx(expected, abs=0.5)
    assert (shown == (200, 60, 20)).all()


@pytest.mark.parametrize("count", [1, 4, 9, 10, MOST])
def test_images_are_shown_dot_for_dot_in_their_order(count):
    page = contact_sheet(tiles(count), "title", "summary")
    assert page.dtype == np.uint8 and 720 <= page.shape[1] <= 1400 and page.shape[0] <= 1500
    tops = [y for y in range(page.shape[0]) if (page[y, sheets.MARGIN] == plain(0)[0, 0]).all()]
    step = THUMBNAIL + 2 * sheets._LINE + sheets._ROW_GAP
    for i in range(count):
        x = sheets.MARGIN + i % sheets.ACROSS * (THUMBNAIL + sheets._GAP)
        y = tops[0] + i // sheets.ACROSS * step
        assert np.array_equal(page[y : y + THUMBNAIL, x : x + THUMBNAIL], thumbnail(plain(i))), i


@pytest.fixture
def written(monkeypatch):
    """The extents of all words of a page, as (x0, y0, x1, y1) from its top left."""
    extents, own = [], sheets.Canvas.pixels

    def pixels(canvas):
        for text in canvas.figure.texts:
            if text.get_text().strip():
                box = text.get_window_extent()
                top, bottom = canvas.height - box.y1, canvas.height - box.y0
                extents.append((box.x0, top, box.x1, bottom))
        return own(canvas)

    monkeypatch.setattr(sheets.Canvas, "pixels", pixels)
    return extents


@pytest.mark.parametrize("count", [1, 4, 20])
def test_words_meet_neither_each_other_nor_an_image(written, count):
    lines = (
        Line("#123456", "1.234e-05", "bold"),
        *(Line(LONG, "0.50"), Line(LONG, "0.12", "quiet"), Line(f"true: {LONG}", tone="wrong")),
    )
    page = contact_sheet(tiles(count, lines), LONG * 3, LONG * 3)
    assert len(written) == 2 + 7 * count
    step = THUMBNAIL + 4 * sheets._LINE + sheets._ROW_GAP
    images = []
    for i in range(count):
        x = sheets.MARGIN + i % sheets.ACROSS * (THUMBNAIL + sheets._GAP)
        y = sheets.HEADER + i // sheets.ACROSS * step
        images.append((x, y, x + THUMBNAIL, y + THUMBNAIL))
    boxes = np.array(written + images)
    height, width = page.shape[:2]
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
    apart = (boxes[:, None, :2] >= boxes[None, :, 2:] - 0.5).any(2)
    meets = ~(apart | apart.T)
    np.fill_diagonal(meets, False)
    assert not meets.any(), np.argwhere(meets)[:5]


def test_the_same_page_whatever_the_users_style():
    lines = (Line("a_{b}$c$ \n\0 日本", "0.5"),)
    first = contact_sheet(tiles(3, lines), "t$_", "s")
    with mpl.rc_context({"text.usetex": True, "savefig.dpi": 300, "font.size": 40}):
        assert np.array_equal(first, contact_sheet(tiles(3, lines), "t$_", "s"))


def test_a_name_without_end_takes_no_time_and_keeps_its_end(written):
    page = contact_sheet(tiles(1, (Line("x" * 10**7 + "end", "0.5"),)), "", "")
    assert page.shape[1] == 720
    assert max(box[2] for box in written) <= sheets.MARGIN + THUMBNAIL


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1)."""
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(values <= 0.03928, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("tone", ["quiet", "right", "wrong"])
def test_words_are_legible_on_white(tone):
    assert 1.05 / (luminance(sheets._COLOURS[tone]) + 0.05) > 4.5


class Network:
    """Stands for a network: the mean of an image's channels are its logits."""

    device = torch.device("cpu")

    def __init__(self, several: bool = False) -> None:
        self.spec = SimpleNamespace(num_classes=3, class_names=NAMES)
        self.several, self.batches = several, []

    def normalise(self, images):
        return images.permute(0, 3, 1, 2).float() / 255

    def __call__(self, images):
        self.batches.append(tuple(images.shape))
        logits = 4 * images.mean((2, 3))
        if self.several:
            logits = torch.stack([torch.zeros_like(logits), logits - 2], 1)[..., None]
            return Evidence(logits, None, Upsampling((3, 1), True))
        return Evidence(logits[:, :, None, None], None, Upsampling((1, 1), True))


def logits_of(image: np.ndarray) -> np.ndarray:
    return 4 * image.reshape(-1, 3).mean(0) / 255


def picks(pool, box=(0, 0, 1, 1)):
    order = list(reversed(range(len(pool))))
    return [Selected(r, pool.paths[i], box, 1, 1 / r) for r, i in enumerate(order, 1)]


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def array(tmp_path):
    """A pool of 70 images of 32 x 32."""
    images = np.random.default_rng(3).integers(0, 256, (70, 1, 1, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", images.repeat(32, 1).repeat(32, 2))
    return open_rows(tmp_path / "x.npy")


def drawn(pool, model=None, label=None):
    return Drawn(pool, model, Value("entropy"), {}, "fp32", label)


def test_pages_of_picks_and_what_the_network_says_of_each(array, tmp_path):
    out, done = tmp_path / "overlays", []
    out.mkdir()
    (out / "old.png").write_bytes(b"")
    selected = picks(array)
    draw_contact_sheets(out, selected, 60, drawn(array, Network()), lambda *n: done.append(n))
    names = ["0001_ranks-1-to-54.png", "0055_ranks-55-to-60.png", PICKED_FILE]
    assert sorted(p.name for p in out.iterdir()) == names
    assert done == [(i, 60) for i in range(1, 61)]
    rows = rows_of(out / PICKED_FILE)
    assert [row["image"] for row in rows] == [s.image for s in selected[:60]]
    for row, s in zip(rows, selected, strict=False):
        logits = logits_of(array.read(array.paths.index(s.image)))
        softmax = np.exp(logits) / np.exp(logits).sum()
        first, second = np.argsort(-softmax)[:2]
        assert (row["predicted"], row["next"]) == (NAMES[first], NAMES[second])
        assert float(row["probability"]) == pytest.approx(softmax[first], abs=2e-6)
        assert float(row["next_probability"]) == pytest.approx(softmax[second], abs=2e-6)
        assert (int(row["rank"]), float(row["score"])) == (s.rank, s.score)
    page = cv2.cvtColor(cv2.imread(str(out / names[0])), cv2.COLOR_BGR2RGB)
    corner = page[sheets.HEADER : sheets.HEADER + THUMBNAIL, sheets.MARGIN :][:, :THUMBNAIL]
    assert np.array_equal(corner, thumbnail(array.read(69)))


def test_images_wait_for_no_more_than_a_page(array, tmp_path, monkeypatch):
    read, at_first_page, own = [], [], type(array).read
    monkeypatch.setattr(type(array), "read", lambda pool, i: read.append(i) or own(pool, i))
    monkeypatch.setattr(drawing, "contact_sheet", lambda *_: plain(0))
    monkeypatch.setattr(drawing, "encoded", lambda _: at_first_page.append(len(read)) or b"")
    draw_contact_sheets(tmp_path / "out", picks(array), 70, drawn(array, Network()), print)
    assert at_first_page[0] <= MOST + drawing._BATCH
    assert len(read) == 70


def test_files_of_several_sizes_and_no_network(tmp_path):
    for i, size in enumerate([(40, 40), (40, 40), (300, 90), (40, 40), (3000, 2000)]):
        path = tmp_path / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((*size, 3), i * 20, np.uint8))
    pool, network = open_files(tmp_path / "images"), Network()
    draw_contact_sheets(tmp_path / "a", picks(pool), 5, drawn(pool, network), print)
    assert [shape[0] for shape in network.batches] == [1, 1, 1, 2]
    assert rows_of(tmp_path / "a" / PICKED_FILE)[0]["image"] == "4.png"
    draw_contact_sheets(tmp_path / "b", picks(pool), 2, drawn(pool), print)
    names = ["0001_ranks-1-to-2.png", PICKED_FILE]
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == names
    assert list(rows_of(tmp_path / "b" / PICKED_FILE)[0]) == ["rank", "image", "score"]


def test_nothing_to_show_is_an_empty_folder(array, tmp_path):
    draw_contact_sheets(tmp_path / "a", picks(array), 0, drawn(array, Network()), print)
    draw_contact_sheets(tmp_path / "b", [], 5, drawn(array, Network()), print)
    assert not [*(tmp_path / "a").iterdir(), *(tmp_path / "b").iterdir()]


def test_of_features_there_is_the_table_alone(tmp_path):
    features = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    pool, network = open_rows(tmp_path / "features.npy"), Network()
    network.normalise = lambda images: images.permute(0, 3, 1, 2)
    draw_contact_sheets(tmp_path / "out", picks(pool), 9, drawn(pool, network), print)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [PICKED_FILE]
    found = [row["predicted"] for row in rows_of(tmp_path / "out" / PICKED_FILE)]
    assert found == [NAMES[i] for i in features[::-1].argmax(1)]


def lines_of(array, tmp_path, monkeypatch, network, selected, label=None):
    """The words below each image of a page."""
    shown = []
    monkeypatch.setattr(drawing, "contact_sheet", lambda tiles, *_: shown.extend(tiles) or plain(0))
    draw_contact_sheets(tmp_path / "out", selected, 70, drawn(array, network, label), print)
    return [[(line.left, line.tone) for line in tile.lines] for tile in shown]


def test_what_the_image_is_and_whether_the_network_had_it_right(array, tmp_path, monkeypatch):
    selected = picks(array)[:3]
    said = [logits_of(array.read(array.paths.index(s.image))).argmax() for s in selected]
    labels = {s.image: np.array([[c]], np.int32) for s, c in zip(selected, said, strict=True)}
    other = (int(said[1]) + 1) % 3
    labels[selected[1].image] = np.array([[other]], np.int32)
    labels[selected[2].image] = np.array([[-1]], np.int32)
    lines = lines_of(array, tmp_path, monkeypatch, Network(), selected, labels.__getitem__)
    assert lines[0][-1] == (f"true: {NAMES[said[0]]}", "right")
    assert lines[1][-1] == (f"true: {NAMES[other]}", "wrong")
    assert [len(of_image) for of_image in lines] == [4, 4, 3]
    written = [row["true"] for row in rows_of(tmp_path / "out" / PICKED_FILE)]
    assert written == [NAMES[said[0]], NAMES[other], ""]


def test_several_labels_are_told_one_by_one(array, tmp_path, monkeypatch):
    array = replace(array, elements=(3, 1))
    selected = [replace(s, box=(0, 0, 1, 3)) for s in picks(array)]
    selected[0] = replace(selected[0], box=(0, 1, 1, 2))
    labels = {}
    for s in selected:
        likely = logits_of(array.read(array.paths.index(s.image))) > 2
        labels[s.image] = likely.astype(np.int32)[:, None]
    labels[selected[0].image][[0, 2]] = -1
    labels[selected[1].image][0] ^= 1
    network = Network(several=True)
    lines = lines_of(array, tmp_path, monkeypatch, network, selected, labels.__getitem__)
    for s, of_image in zip(selected, lines, strict=True):
        logits = logits_of(array.read(array.paths.index(s.image))) - 2
        above = [NAMES[c] for c in np.argsort(-logits) if logits[c] > 0]
        said = [left for left, tone in of_image if tone == "plain" and "asked" not in left]
        assert said == (above or ["none of them"])
    assert ("asked: dog", "plain") in lines[0] and lines[0][-1][1] == "right"
    assert lines[1][-1][1] == "wrong" and not any("asked" in left for left, _ in lines[1])
    assert all(of_image[-1][1] == "right" for of_image in lines[2:])
    for row, s in zip(rows_of(tmp_path / "out" / PICKED_FILE), selected, strict=True):
        logits = logits_of(array.read(array.paths.index(s.image))) - 2
        given = [float(p) for p in row["probability"].split("|") if p]
        expected = sorted((1 / (1 + np.exp(-logits[logits > 0]))).tolist(), reverse=True)
        assert given == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("classes", "several"), [(1, True), (2, True), (2, False), (5, False)])
def test_predictions_tell_several_labels_from_one(classes, several):
    shape = (4, 2, classes, 1) if several else (4, classes, 1, 1)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for found in predictions(logits, classes):
        assert found.several == several
        probabilities = [p for _, p in found.said]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(p > 0.5 for p in probabilities) if several else len(probabilities) == 1
        rest = classes - len(found.said)
        assert (found.then is None) == (rest == 0)


@pytest.fixture
def explain(array, tmp_path):
    """Explains images of some scores (each a number, or one a class); gives folder and pictures."""

    def run(scores, pool=array):
        names = ClassNames(NAMES)
        explainer = SheetsExplainer(
            Explaining(pool, names, "error_change", "error change", tmp_path)
        )
        for i, given in enumerate(scores):
            score = np.atleast_2d(np.float32(given)).T
            logits = torch.randn((2, 3, 1) if len(score) == 3 else (3, 1, 1))
            explainer.add(ScoredImage(i, f"{i}", logits, np.zeros_like(score), score))
        out, done = tmp_path / "pictures", []
        out.mkdir()
        found = explainer.draw(out, lambda *n: done.append(n))
        assert done == [(1, 2), (2, 2)]
        return out, found

    return run


def test_both_ends_of_the_order_are_shown_and_never_the_same_image(explain):
    scores = np.random.default_rng(0).normal(size=70).astype(np.float32)
    scores[:58] = np.abs(scores[:58]) + 0.01
    scores[58:69] = -np.abs(scores[58:69]) - 0.01
    scores[69] = 0
    out, found = explain(scores)
    assert sorted(p.name for p in out.iterdir()) == [HELPING_FILE, HURTING_FILE, SCORES_FILE]
    order = np.argsort(-scores)
    hurting = {i for i, file in enumerate(found.files) if file == HURTING_FILE}
    assert hurting == set(order[:MOST].tolist())
    helping = {i for i, file in enumerate(found.files) if file == HELPING_FILE}
    assert helping == set(range(58, 69))
    assert found.files[69] is None
    assert found.scales == {"error_change": pytest.approx(float(np.abs(scores).max()))}
    rows = rows_of(out / SCORES_FILE)
    given = [float(row["error_change"]) for row in rows]
    assert given == pytest.approx(np.sort(scores)[::-1].tolist())
    assert [int(row["image"][-3:]) for row in rows] == order.tolist()


def test_scores_that_are_all_zero_are_no_picture(explain):
    out, found = explain([0.0, 0.0])
    assert [p.name for p in out.iterdir()] == [SCORES_FILE]
    assert list(found.files) == [None, None]


def test_the_frames_are_red_where_it_hurts_and_blue_where_it_helps(explain):
    out, _ = explain([1.0, -1.0])
    top = sheets.HEADER + sheets.CAPTION
    for file, strong, weak in ((HURTING_FILE, 0, 2), (HELPING_FILE, 2, 0)):
        page = cv2.cvtColor(cv2.imread(str(out / file)), cv2.COLOR_BGR2RGB).astype(int)
        frame = page[top - 2, sheets.MARGIN : sheets.MARGIN + THUMBNAIL]
        assert (frame[:, strong] > frame[:, weak] + 40).all(), file


def test_of_several_labels_the_mean_counts_and_what_moves_it_most_is_named(explain, monkeypatch):
    shown = []
    monkeypatch.setattr(
        explaining, "contact_sheet", lambda tiles, *_: shown.extend(tiles) or plain(0)
    )
    _, found = explain([[1.0, -3.0, 0.5], [0.1, 0.2, 0.6]])
    assert list(found.files) == [HELPING_FILE, HURTING_FILE]
    moving = [tile.lines[-2] for tile in shown]
    assert [(line.left, line.right) for line in moving] == [("bird", "+0.6"), ("dog", "-3")]


def test_explained_features_are_a_table(explain, tmp_path):
    np.save(tmp_path / "features.npy", np.ones((4, 3), np.float32))
    out, found = explain([1.0, -1.0, 2.0], open_rows(tmp_path / "features.npy"))
    assert [p.name for p in out.iterdir()] == [SCORES_FILE]
    assert list(found.files) == [None] * 3


def test_a_report_shows_sheets_and_says_what_they_are(array, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", scores=(0.4, 0.5))
    for folder in sorted((run / "rounds").glob("*/overlays")):
        draw_contact_sheets(folder, picks(array), 60, drawn(array, Network()), lambda *_: None)
    task = SimpleNamespace(picture_words=SHEET_WORDS)
    monkeypatch.setattr(pictures, "find_task", lambda name: task)
    page = write_report([run], tmp_path / "report.html").read_text()
    assert SHEET_WORDS.shown in page and "beside the map" not in page
    for ranks in ("ranks-1-to-54", "ranks-55-to-60"):
        assert f": {ranks}</figcaption>" in page
        assert f'picked after round 0: {ranks}"' in page
