"""Tasks for Label Studio, and what comes back of them."""

import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segal.annotation.answers import Answer, DrawnBox, Layer
from segal.annotation.formats.base import WriteOptions
from segal.annotation.formats.label_studio import LabelStudio
from segal.annotation.handout import as_one
from segal.errors import SegalError
from segal.functional.rle_brushes import encode_brush
from tests.handed_out import (
    CLASSES,
    OPTIONS,
    handed_task,
    handout,
    in_frames,
    label_of,
    painted,
    scene,
)

TOOL = LabelStudio()


def written(folder, given, drafts=None, options=OPTIONS):
    TOOL.check(given)
    folder.mkdir(exist_ok=True)
    return TOOL.write(folder, given, drafts, options)


def tasks_of(paths):
    return [
        task for path in paths if path.suffix == ".json" for task in json.loads(path.read_text())
    ]


def returned(task, results, number=1, **more):
    """A task as the plain JSON export has it; what no reader may look at is a trap."""
    trap = {
        "id": 9,
        "result": [{"type": "brushlabels", "value": {"rle": [1], "brushlabels": ["x"]}}],
    }
    annotation = {
        "id": 70 + number,
        "completed_by": 3,
        "was_cancelled": False,
        "result": results,
        "lead_time": 12.5,
        "prediction": trap,
        "updated_at": "2026-11-30T10:00:00Z",
        "created_at": "2026-11-30T09:00:00Z",
        **more,
    }
    return {"id": number, "data": task["data"], "annotations": [annotation], "predictions": [9]}


def submitted(task, origin="manual"):
    """What the editor makes of a task that is submitted as it is."""
    results = [{**one, "origin": origin} for one in task["predictions"][0]["result"]]
    return returned(task, results)


def read(path, given, content=None):
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return list(TOOL.read(path, given))


def brush(task, mask, name, corner=(0, 0), **more):
    height, width = task.frame_size
    return {
        "id": "x",
        "from_name": "brush",
        "to_name": "image",
        "type": "brushlabels",
        "origin": "manual",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            "format": "rle",
            "rle": list(encode_brush(mask, corner, height, width)),
            "brushlabels": [name],
        },
        **more,
    }


ODD = [
    handed_task(),
    handed_task(size=(1, 1), region=(0, 0, 1, 1)),
    handed_task(size=(37, 23), region=(0, 0, 23, 37)),
    handed_task(size=(64, 50), region=(40, 50, 50, 64), frame=(18, 32, 50, 64)),
    handed_task(size=(70, 31), region=(13, 0, 14, 70)),
]


@pytest.mark.parametrize("task", ODD)
@pytest.mark.parametrize("grain", [1, 4])
def test_every_pixel_comes_back(tmp_path, task, grain):
    given, label = handout(task, model="m"), scene(task, grain=grain)
    paths = written(tmp_path / "out", given, lambda t: painted(t, label))
    (answer,) = read(tmp_path / "r.json", given, [submitted(tasks_of(paths)[0], "prediction")])
    assert np.array_equal(label_of(answer, task), label)
    assert answer.key == task.key and not any(layer.is_drawn for layer in answer.layers)
    assert (answer.annotator, answer.seconds, answer.lossy, answer.partial) == ("3", 12.5, "", 0)
    assert answer.updated == "2026-11-30T10:00:00Z" and answer.notes == ()
    assert "annotation 71" in answer.source


def test_what_is_written(tmp_path):
    task = handed_task()
    paths = written(tmp_path / "out", handout(task, model="digest"))
    assert sorted(path.name for path in paths) == ["label-config.xml", "tasks.json"]
    (raw,) = tasks_of(paths)
    assert raw["data"]["image"] == "/data/local-files/?d=sub/a%20b%23%25.png"
    assert raw["data"]["segal_task"] == task.key and raw["data"]["segal_priority"] == 1
    (region,) = raw["predictions"][0]["result"]
    assert region["readonly"] is True and region["value"]["rectanglelabels"] == ["segal_region"]
    assert raw["predictions"][0]["model_version"] == "digest"
    root = ElementTree.parse(tmp_path / "out" / "label-config.xml").getroot()
    asked, hidden = root.find("BrushLabels"), root.find("View")
    (outline,) = hidden
    assert outline.tag == "RectangleLabels" and hidden.get("style") == "display: none"
    assert [label.get("value") for label in asked] == list(CLASSES)
    assert asked[1].get("background") == "#0102fe"
    assert outline.get("opacity") == "0" and [x.get("value") for x in outline] == ["segal_region"]
    # Every control that results name is there.
    assert {"brush", "segal_region"} == {asked.get("name"), outline.get("name")}


def test_tasks_are_in_pick_order_in_a_file_for_each_annotator(tmp_path):
    names = ["ann, a/b", "ann; a b", "", "Zoë"]
    tasks = [handed_task(region=(i, 0, i + 1, 4), rank=i, who=names[i % 4]) for i in range(12)]
    paths = written(tmp_path / "out", handout(*tasks))
    found = {path.name: json.loads(path.read_text()) for path in paths[1:]}
    assert sorted(found) == [
        "tasks-ann-a-b-2.json",
        "tasks-ann-a-b.json",
        "tasks-zoë.json",
        "tasks.json",
    ]
    for raws in found.values():
        ranks = [raw["data"]["segal_priority"] for raw in raws]
        assert len(ranks) == 3 and ranks == sorted(ranks)
        assert len({raw["data"]["segal_annotator"] for raw in raws}) == 1


@pytest.mark.parametrize(
    ("classes", "shown"),
    [
        (("a", "a"), "tell apart"),
        (("a/b", "a-b"), "tell apart"),
        (("a\\b", "a/b"), "tell apart"),
        ((" a",), "blanks"),
        (("",), "empty"),
        (("a\nb",), "printed"),
        (("\udcff",), "printed"),
        (("a $field",), "something else"),
        (("segal_region",), "own label"),
    ],
)
def test_names_that_cannot_be_kept_are_refused(classes, shown):
    with pytest.raises(SegalError, match=shown):
        TOOL.check(handout(handed_task(), classes=classes))
    TOOL.check(handout(handed_task(), classes=("a,b", "A,b", "$", "5 $", "a<&\">'", "void")))


def test_all_names_that_are_wrong_are_told_at_once():
    with pytest.raises(SegalError) as caught:
        TOOL.check(handout(handed_task(), classes=("a", "a", " b", "segal_region")))
    assert len(caught.value.errors) == 3


def test_an_address_without_a_file_is_refused(tmp_path):
    with pytest.raises(SegalError, match="image_url"):
        written(tmp_path / "o", handout(handed_task()), options=WriteOptions("/x", ()))


def test_images_too_large_for_a_brush_are_refused():
    with pytest.raises(SegalError, match="too large"):
        TOOL.check(handout(handed_task(size=(2**15, 2**15))))


def test_what_is_drawn_is_told_from_what_is_not(tmp_path):
    task = handed_task()
    given = handout(task)
    (raw,) = tasks_of(written(tmp_path / "o", given))
    mask = np.ones((4, 5), bool)
    results = [
        brush(task, mask, "a", (6, 4), origin="prediction"),
        brush(task, mask, "b", (7, 5), origin="prediction-changed"),
        brush(task, mask, "c", (8, 6)),
        {"type": "textarea", "value": {"text": ["hm"]}},
    ]
    task_back = returned(raw, results)
    task_back["drafts"] = [{"result": [brush(task, mask, "d")]}]
    (answer,) = read(tmp_path / "r.json", given, [task_back])
    assert [(x.name, x.is_drawn, x.corner) for x in answer.layers] == [
        ("a", False, (6, 4)),
        ("b", True, (7, 5)),
        ("c", True, (8, 6)),
    ]
    orders = [layer.order for layer in answer.layers]
    assert orders == sorted(set(orders))
    assert len(answer.notes) == 2 and "textarea" in answer.notes[0] and "draft" in answer.notes[1]


@pytest.mark.parametrize("place", [(6, 4), (9, 6), (20, 15), (5, 3)])
def test_what_people_do_lies_above_what_the_network_drew(tmp_path, place):
    """The editor keeps a draft that is extended below the drafts that were made after it."""
    task = handed_task()
    given = handout(task, classes=("a", "b", "c"), model="m")
    (raw,) = tasks_of(written(tmp_path / "o", given))
    size, rng = task.frame_size, np.random.default_rng(0)
    drafts = rng.integers(0, 3, size)
    stroke = np.zeros((2, 2, *size), bool)  # of a and b: what is added, what is erased
    stroke[0, 0, place[1] : place[1] + 5, place[0] : place[0] + 7] = True
    stroke[1, 1, 5:9, 10:20] = True
    results, before = [], []
    for index, name in enumerate(given.classes):
        mask = drafts == index
        before.append(brush(task, mask, name, id=f"draft{index}"))
        if name == "c":
            results.append({**before[index], "origin": "prediction"})
            continue
        mask = (mask & ~stroke[index, 1]) | stroke[index, 0]
        results.append(brush(task, mask, name, id=f"draft{index}", origin="prediction-changed"))
    back = returned(raw, results, prediction={"id": 9, "result": before})
    (answer,) = read(tmp_path / "r.json", given, [back])
    expected = np.full(size, -1)
    for y, x in np.ndindex(size):
        if not (drafts[y, x] == 1 and stroke[1, 1, y, x]):
            expected[y, x] = drafts[y, x]
        if stroke[0, 0, y, x]:
            expected[y, x] = 0
    found = np.full(size, -1)
    for layer in sorted(answer.layers, key=lambda x: (x.order, x.is_drawn)):
        for row, column in np.argwhere(layer.mask):
            found[row + layer.corner[1], column + layer.corner[0]] = given.classes.index(layer.name)
    assert np.array_equal(found, expected)
    assert {x.name for x in answer.layers if not x.is_drawn} == {"c"}
    pixels = sum(int(x.mask.sum()) for x in answer.layers if x.name == "a")
    assert pixels == ((drafts == 0) | stroke[0, 0]).sum()


def test_a_draft_that_was_given_another_label_is_where_it_was(tmp_path):
    task = handed_task()
    given = handout(task, classes=("a", "b"))
    (raw,) = tasks_of(written(tmp_path / "o", given))
    mask = np.ones((4, 5), bool)
    before = [brush(task, mask, "a", (6, 4))]
    results = [brush(task, mask, "b", (6, 4), origin="prediction-changed")]
    back = returned(raw, results, prediction={"result": before})
    (answer,) = read(tmp_path / "r.json", given, [back])
    assert [(x.name, x.order, x.is_drawn) for x in answer.layers] == [("b", 0, True)]


def test_lists_of_bytes_are_read_in_any_layout(tmp_path):
    task = handed_task()
    given = handout(task, classes=("a", "b"))
    (raw,) = tasks_of(written(tmp_path / "o", given))
    raw["data"]["note"] = 'said "rle": [1, 2] and "rle":[3'
    back = [returned(raw, [brush(task, np.eye(9, dtype=bool), "a", (6, 4))])]
    for layout in ({}, {"separators": (",", ":")}, {"indent": 2}):
        (answer,) = read(tmp_path / "r.json", given, json.dumps(back, **layout))
        assert np.array_equal(answer.layers[0].mask, np.eye(9, dtype=bool))
    text = json.dumps(back)
    for old, new in (('"rle": [0', '"rle": [0 0'), ('"rle": [0', '"rle": [,0'), (", 0]", ", 256]")):
        assert old in text
        (error,) = read(tmp_path / "r.json", given, text.replace(old, new, 1))
        assert "a whole rle" in str(error)


def test_smoothed_edges_are_thresholded_and_told(tmp_path):
    task = handed_task(size=(1, 4), region=(0, 0, 4, 1))
    given = handout(task)
    (raw,) = tasks_of(written(tmp_path / "o", given))
    result = brush(task, np.zeros((1, 4), bool), "a")
    alpha = np.repeat(np.array([0, 127, 128, 255], np.uint8), 4)
    bits = f"{16:032b}00111" + "0010001101111111"
    bits += "".join(f"100011{value:08b}" for value in alpha[::4])
    bits += "0" * (-len(bits) % 8)
    result["value"]["rle"] = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    (answer,) = read(tmp_path / "r.json", given, [returned(raw, [result])])
    assert answer.layers[0].mask.tolist() == [[True, True]]
    assert answer.layers[0].corner == (2, 0)
    assert answer.partial == pytest.approx(2 / 3)


def test_who_did_it_and_how_often(tmp_path):
    task = handed_task(who="ann")
    given = handout(task, handed_task(who="bob"))
    raw = tasks_of(written(tmp_path / "o", given))[0]
    back = returned(raw, [], completed_by={"id": 4, "email": "z@x"})
    back["annotations"] += returned(raw, [], 2)["annotations"]
    back["annotations"] += returned(raw, [], 3, completed_by=None)["annotations"]
    back["annotations"] += returned(raw, [], 4, was_cancelled=True)["annotations"]
    answers = read(tmp_path / "r.json", given, [back])
    assert [answer.annotator for answer in answers] == ["z@x", "3", "ann"]
    assert len({answer.source for answer in answers}) == 3
    assert all(answer.key == task.key and not answer.layers for answer in answers)


@pytest.mark.parametrize("time", [-2, 1e999, "5", True, [1], None, 0, 7])
def test_times(tmp_path, time):
    given = handout(handed_task())
    (raw,) = tasks_of(written(tmp_path / "o", given))
    text = json.dumps([returned(raw, [], lead_time=time)]).replace("Infinity", "1e999")
    (answer,) = read(tmp_path / "r.json", given, text)
    good = time in (0, 7) and time is not True
    assert answer.seconds == (time if good else None)
    assert len(answer.notes) == (0 if good or time is None else 1)


def test_nobody_worked_on_it(tmp_path):
    given = handout(handed_task())
    (raw,) = tasks_of(written(tmp_path / "o", given))
    open_one = {**raw, "id": 1, "annotations": []}
    skipped = returned(raw, [], was_cancelled=True)
    assert read(tmp_path / "r.json", given, [open_one, skipped]) == []


def test_a_folder_of_files_is_read(tmp_path):
    given = handout(handed_task(rank=1), handed_task(region=(0, 0, 3, 3), rank=2))
    raws = tasks_of(written(tmp_path / "o", given))
    folder = tmp_path / "back"
    folder.mkdir()
    for number, raw in enumerate(raws):
        (folder / f"{number}.json").write_text(json.dumps([returned(raw, [])]))
    assert [answer.key for answer in read(folder, given)] == [task.key for task in given.tasks]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SegalError, match="nothing that came back"):
        read(tmp_path / "empty", given)


def swapped(result):
    result["original_width"], result["original_height"] = (
        result["original_height"],
        result["original_width"],
    )


def of_value(**changes):
    return lambda result: result["value"].update(changes)


def of_result(**changes):
    return lambda result: result.update(changes)


DAMAGE = {
    "swapped": (swapped, "another size"),
    "no size": (lambda r: r.pop("original_width"), "another size"),
    "size of text": (of_result(original_width="37"), "another size"),
    "turned": (of_result(image_rotation=90), "rotated"),
    "short": (lambda r: r["value"]["rle"].pop(4), "damaged"),
    "no bytes": (of_value(rle=[300, 1]), "damaged"),
    "texts": (of_value(rle=["1"]), "damaged"),
    "empty": (of_value(rle=[]), "damaged"),
    "strokes": (lambda r: r.update(value={"touches": [], "brushlabels": ["a"]}), "without pixels"),
    "format": (of_value(format="png"), "without pixels"),
    "no label": (of_value(brushlabels=[]), "not one label"),
    "two labels": (of_value(brushlabels=["a", "b"]), "not one label"),
    "number": (of_value(brushlabels=[3]), "not one label"),
    "no value": (of_result(value=None), "without a value"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_results(tmp_path, name):
    change, shown = DAMAGE[name]
    task = handed_task()
    given = handout(task)
    (raw,) = tasks_of(written(tmp_path / "o", given))
    good = brush(task, np.ones((2, 2), bool), "a")
    bad = brush(task, np.eye(9, dtype=bool), "a")
    change(bad)
    back = returned(raw, [good, bad])
    back["annotations"] += returned(raw, [good], 2)["annotations"]
    error, answer = read(tmp_path / "r.json", given, [back])
    assert isinstance(error, SegalError) and isinstance(answer, Answer)
    assert re.search(shown, str(error)) and error.expected and error.got and error.remedy
    for part in ("r.json", task.key, task.image, "x 5, y 3, width 32, height 17"):
        assert part in str(error)


@pytest.mark.parametrize(
    ("field", "by"), [("x", 1.5), ("width", -3.0), ("y", math.nan), ("height", "5")]
)
def test_a_region_that_was_moved(tmp_path, field, by):
    given = handout(handed_task())
    (raw,) = tasks_of(written(tmp_path / "o", given))
    back = submitted(raw)
    value = back["annotations"][0]["result"][0]["value"]
    value[field] = value[field] + by if isinstance(by, float) else by
    text = json.dumps([back])
    if isinstance(by, float) and math.isnan(by):
        with pytest.raises(SegalError, match="damaged"):
            read(tmp_path / "r.json", given, text)
    else:
        (error,) = read(tmp_path / "r.json", given, text)
        assert "was moved" in str(error) or "rectangle that is none" in str(error)


@pytest.mark.parametrize("width", [37, 333, 1023, 1921, 4097])
def test_regions_are_known_again_at_any_width(tmp_path, width):
    regions = [(x, 0, min(x + 7, width), 5) for x in range(0, width, max(width // 60, 1))]
    tasks = [handed_task(size=(9, width), region=r, rank=i) for i, r in enumerate(regions)]
    given = handout(*tasks)
    raws = tasks_of(written(tmp_path / "o", given))
    for raw in raws:
        for key, value in raw["predictions"][0]["result"][0]["value"].items():
            if isinstance(value, float):
                raw["predictions"][0]["result"][0]["value"][key] = round(value, 3)
    answers = read(tmp_path / "r.json", given, [submitted(raw) for raw in raws])
    assert [answer.key for answer in answers] == [task.key for task in tasks]


def test_tasks_of_others(tmp_path):
    given = handout(handed_task())
    (raw,) = tasks_of(written(tmp_path / "o", given))
    other = json.loads(json.dumps(raw))
    other["data"] |= {"segal_task": "0" * 16, "segal_run": "another"}
    plain = {"id": 5, "data": {"image": "x"}, "annotations": []}
    odd = returned({"data": {"segal_task": ["x"]}}, [])
    found = read(tmp_path / "r.json", given, [returned(other, []), plain, odd])
    assert all(isinstance(one, SegalError) for one in found) and len(found) == 2
    assert "another" in str(found[0]) and "a b#%.png" in str(found[0])
    assert "5, 3, 32, 17" in str(found[0])


def test_outlines_are_taken_as_lossy(tmp_path):
    task = handed_task(size=(60, 80), region=(0, 0, 80, 60))
    given = handout(task)
    (raw,) = tasks_of(written(tmp_path / "o", given))
    points = [[10, 10], [30, 10], [30, 25], [10, 25]]
    result = brush(task, np.zeros((1, 1), bool), "a", type="polygonlabels")
    percent = [[x * 100 / 80, y * 100 / 60] for x, y in points]
    result["value"] = {"points": percent, "polygonlabels": ["a"]}
    (answer,) = read(tmp_path / "r.json", given, [returned(raw, [result])])
    (layer,) = answer.layers
    assert layer.mask.shape == (15, 20) and layer.mask.all() and layer.corner == (10, 10)
    assert "pycocotools" in answer.lossy
    for bad in ([[0, 0], [1, 1]], [[0, 0], [1, 1], [1e9, 0]], "x", [[0, 0], [1, None], [2, 2]]):
        result["value"]["points"] = bad
        (error,) = read(tmp_path / "r.json", given, [returned(raw, [result])])
        assert "outline" in str(error)


def test_boxes_come_back(tmp_path):
    task = handed_task(size=(333, 217), region=(10, 20, 200, 300))
    given = handout(task, question="detection", model="m")
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 200, (40, 2, 2)), 1).tolist()
    boxes = [
        DrawnBox(CLASSES[i % 19], (x0, y0, x1 + 1, y1 + 1))
        for i, ((x0, y0), (x1, y1)) in enumerate(corners)
    ]
    boxes.append(DrawnBox("edge", (0, 0, 217, 333)))
    boxes.append(DrawnBox("part", (1.25, 2.5, 3.125, 4.75)))
    paths = written(tmp_path / "o", given, lambda t: Answer(t.key, "", boxes=boxes))
    (raw,) = tasks_of(paths)
    (answer,) = read(tmp_path / "r.json", given, [submitted(raw)])
    assert [(b.name, b.box) for b in answer.boxes] == [(b.name, b.box) for b in boxes]
    assert all(b.is_drawn for b in answer.boxes) and not answer.layers
    back = submitted(raw)
    back["annotations"][0]["result"][-1]["value"]["width"] = 100
    (error,) = read(tmp_path / "r.json", given, [back])
    assert "leaves the image" in str(error)
    back["annotations"][0]["result"][-1]["value"].update(width=1, rotation=30)
    (error,) = read(tmp_path / "r.json", given, [back])
    assert "rotated" in str(error)


@pytest.mark.parametrize(
    ("question", "choice"), [("classification", "single"), ("multilabel", "multiple")]
)
def test_choices_come_back(tmp_path, question, choice):
    task = handed_task()
    given = handout(task, question=question, model="m")
    names = CLASSES[1:3] if question == "multilabel" else CLASSES[2:3]
    paths = written(tmp_path / "o", given, lambda t: Answer(t.key, "", choices=names))
    (raw,) = tasks_of(paths)
    (answer,) = read(tmp_path / "r.json", given, [submitted(raw)])
    assert tuple(answer.choices) == tuple(names) and answer.notes == ()
    (answer,) = read(tmp_path / "r.json", given, [submitted(raw, "prediction")])
    assert "nobody touched" in answer.notes[0]
    root = ElementTree.parse(tmp_path / "o" / "label-config.xml").getroot()
    assert root.find("Choices").get("choice") == choice and root.find("RectangleLabels") is None
    assert [x.get("value") for x in root.find("Choices")] == list(CLASSES)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "another file"),
        ("{}", "another file"),
        ("[", "no object"),
        ("[1]", "no object"),
        ("[{}]", "no task"),
        ('[{"id": 1}, ', "no task"),
        ('[{"id": 1', "damaged or cut short"),
        ('[{"a": [' + "[" * 100_000, "too deeply"),
        ('[{"a": ' + "9" * 5000 + "}]", "damaged"),
        ('[{"a": NaN}]', "damaged"),
        ("[] x", "behind the end"),
        (b"\xff[]", "UTF-8"),
        (b'[{"a": "\xe4"}]', "UTF-8"),
    ],
)
def test_files_that_are_no_export(tmp_path, text, shown):
    path = tmp_path / "r.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SegalError, match=shown):
        list(TOOL.read(path, handout(handed_task())))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SegalError, match="cannot be read"):
        list(TOOL.read(tmp_path / "r.json", handout(handed_task())))


def test_json_min_is_named(tmp_path):
    with pytest.raises(SegalError, match="JSON-MIN"):
        read(tmp_path / "r.json", handout(handed_task()), [{"id": 1, "image": "x", "brush": []}])


def test_an_export_longer_than_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("segal.annotation.formats.shared.json_items._CHUNK", 97)
    tasks = [handed_task(region=(i, 0, i + 1, 4), rank=i) for i in range(30)]
    given = handout(*tasks, classes=("é" * 50, "b"))
    raws = tasks_of(written(tmp_path / "o", given))
    text = json.dumps([submitted(raw) for raw in raws], ensure_ascii=False, indent=2)
    assert [a.key for a in read(tmp_path / "r.json", given, text)] == [t.key for t in tasks]


def test_masks_beyond_all_measure_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("segal.annotation.formats.shared.tools._LEAST_ROOM", 0)
    task = handed_task(size=(8, 8), region=(0, 0, 8, 8))
    given = handout(task)
    (raw,) = tasks_of(written(tmp_path / "o", given))
    results = [brush(task, np.ones((8, 8), bool), "a")] * 33
    (answer,) = read(tmp_path / "r.json", given, [returned(raw, results[:32])])
    assert len(answer.layers) == 32
    (error,) = read(tmp_path / "r.json", given, [returned(raw, results)])
    assert "than anybody draws" in str(error)


@pytest.fixture(scope="module")
def real_bytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    task = handed_task(size=(9, 11), region=(0, 0, 11, 9))
    given = handout(task, classes=("a", "b"))
    layers = [Layer("a", np.ones((3, 3), bool)), Layer("b", np.eye(4, dtype=bool), (2, 2))]
    paths = written(folder / "o", given, lambda t: Answer(t.key, "", layers=layers))
    return given, json.dumps([submitted(raw) for raw in tasks_of(paths)]).encode(), folder


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3))
def test_flipped_bytes_are_read_or_refused(real_bytes, flips):
    given, data, folder = real_bytes
    changed = bytearray(data)
    for place, value in flips:
        changed[place % len(changed)] = value
    path = folder / "flipped.json"
    path.write_bytes(changed)
    try:
        found = list(TOOL.read(path, given))
    except SegalError:
        return
    assert all(isinstance(one, Answer | SegalError) for one in found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), JSON)
def test_values_of_any_kind_are_read_or_refused(real_bytes, way, value):
    given, data, folder = real_bytes
    content = json.loads(data)
    inner = content
    for step in way:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not keys:
            break
        key = keys[step % len(keys)]
        if not isinstance(inner[key], dict | list) or step == way[-1]:
            inner[key] = value
            break
        inner = inner[key]
    path = folder / "any.json"
    path.write_text(json.dumps(content))
    try:
        found = list(TOOL.read(path, given))
    except SegalError:
        return
    assert all(isinstance(one, Answer | SegalError) for one in found)


@pytest.mark.parametrize("late", range(3))
def test_late_answers_are_read_in_the_frame_in_which_they_were_handed_out(tmp_path, late):
    handed = in_frames()
    (task,) = handed[late].tasks
    label = scene(task)
    paths = written(tmp_path / "out", handed[late], lambda t: painted(t, label))
    (raw,) = tasks_of(paths)
    (answer,) = read(tmp_path / "r.json", as_one(handed[::-1]), [submitted(raw)])
    assert answer.frame == task.frame
    assert np.array_equal(label_of(answer, task), label)
