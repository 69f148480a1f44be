"""Whatever comes back is answered with answers or a SegalError, in bounded time and memory."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segal.annotation.answers import Answer
from segal.annotation.formats import FORMATS
from segal.errors import SegalError
from tests.made_returns import OPTIONS, boxes, drawn, handout, labels, written

KINDS = [
    (kind, question)
    for kind in ("cityscapes", "coco", "fiftyone", "folder", "labelme", "panoptic", "voc")
    for question in ("segmentation", "detection")
    if question in FORMATS[kind].questions
]
SETTINGS = settings(max_examples=10, deadline=None, derandomize=True, database=None)
TEXTS = st.sampled_from(["", "road", "mask", "polygon", "../x", "/etc/passwd", "\ud800", "é\0"])
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def returned(tmp_path_factory):
    """A return of each format and question, and what was handed out."""
    made = labels(40, sizes=((21, 33), (17, 19)))
    found = {}
    for kind, question in KINDS:
        handed = handout(made, kind, question=question, model="0" * 8)
        path = tmp_path_factory.mktemp(f"{kind}-{question}")
        work = drawn(made) if question == "segmentation" else boxes(made, handed.classes)
        found[kind, question] = written(path, kind, work, handed), handed
    return found


def files(path):
    return sorted(one for one in path.rglob("*") if one.is_file() and "drafts" not in one.parts)


def check(path, handed):
    keys = {task.key for task in handed.tasks}
    sizes = {task.key: task.frame_size for task in handed.tasks}
    try:
        for one in FORMATS[handed.kind].read(path, handed):
            assert isinstance(one, Answer | SegalError)
            if isinstance(one, SegalError):
                assert one.remedy
                continue
            assert one.key in keys
            height, width = sizes[one.key]
            for layer in one.layers:
                assert layer.mask.dtype == np.bool_ and layer.mask.any()
                (x, y), (h, w) = layer.corner, layer.mask.shape
                assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
            for box in one.boxes:
                x0, y0, x1, y1 = box.box
                assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    except SegalError as error:
        assert error.remedy or "more like these" in str(error)


@pytest.mark.parametrize(("kind", "question"), KINDS)
def test_bytes_that_were_flipped_or_cut(returned, tmp_path, kind, question):
    path, handed = returned[kind, question]
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    check(copy, handed)
    rng = np.random.default_rng(0)
    for file in files(copy):
        data = file.read_bytes()
        for _ in range(4):
            flipped = bytearray(data)
            for place in rng.integers(0, max(len(data), 1), 1 + int(rng.integers(3))):
                if data:
                    flipped[place] = int(rng.integers(256))
            file.write_bytes(
                flipped if rng.random() < 0.7 else flipped[: rng.integers(len(data) + 1)]
            )
            check(copy, handed)
        file.write_bytes(data)


def places(value, path=()):
    """Where a value of JSON has other values."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inner:
        yield (*path, key)
        if isinstance(one, dict | list):
            yield from places(one, (*path, key))


@pytest.mark.parametrize(
    ("kind", "question"),
    [one for one in KINDS if one[0] in {"coco", "labelme", "panoptic"}]
    + [("fiftyone", "detection")],
)
def test_values_of_json_that_are_something_else(returned, tmp_path, kind, question):
    path, handed = returned[kind, question]
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    documents = {
        file: json.loads(file.read_text())
        for file in files(copy)
        if file.suffix == ".json" and file.name != "regions.json"
    }
    spots = [(file, spot) for file, value in documents.items() for spot in places(value)]

    @SETTINGS
    @given(st.data())
    def change(data):
        file, spot = data.draw(st.sampled_from(spots))
        value = json.loads(json.dumps(documents[file]))
        holder = value
        for key in spot[:-1]:
            holder = holder[key]
        holder[spot[-1]] = data.draw(JUNK)
        file.write_text(json.dumps(value))
        check(copy, handed)
        file.write_text(json.dumps(documents[file]))

    change()


def test_cityscapes_polygons_that_are_something_else(tmp_path):
    handed = handout(labels(41, sizes=((21, 33),)), "cityscapes")
    FORMATS["cityscapes"].write(tmp_path, handed, None, OPTIONS)
    file = tmp_path / "gtFine" / "town" / "a_gtFine_polygons.json"
    keys = st.sampled_from(["label", "polygon", "deleted"])

    @SETTINGS
    @given(st.lists(st.dictionaries(keys, JUNK), max_size=3) | JUNK)
    def change(objects):
        file.write_text(json.dumps({"imgHeight": 21, "imgWidth": 33, "objects": objects}))
        check(tmp_path, handed)

    change()
