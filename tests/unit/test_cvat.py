"""XML for CVAT, and what comes back of it."""

import json
import re
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segal.annotation.answers import Answer, DrawnBox, Layer
from segal.annotation.formats.cvat import Cvat
from segal.annotation.handout import as_one
from segal.errors import SegalError
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

TOOL = Cvat()


def written(folder, given, drafts=None):
    TOOL.check(given)
    folder.mkdir(exist_ok=True)
    return TOOL.write(folder, given, drafts, OPTIONS)


def tree_of(paths):
    (path,) = (path for path in paths if path.name == "annotations.xml")
    return ElementTree.parse(path)


def ticked(tree):
    for attribute in tree.iter("attribute"):
        if attribute.get("name") == "done":
            attribute.text = "true"
    return tree


def add(tree, tag, label, image=0, source="manual", **given):
    """What a person draws, as CVAT writes it."""
    attributes = {"label": label, "source": source, **{k: str(v) for k, v in given.items()}}
    ElementTree.SubElement(tree.findall("image")[image], tag, attributes)


def mask_of(mask, x=0, y=0, z_order=1):
    """CVAT's numbers, by a loop."""
    runs, current = [0], False
    for value in mask.reshape(-1).tolist():
        if value != current:
            runs.append(0)
            current = value
        runs[-1] += 1
    height, width = mask.shape
    rle = ", ".join(map(str, runs))
    return {"rle": rle, "left": x, "top": y, "width": width, "height": height, "z_order": z_order}


def read(path, given, tree=None):
    if tree is not None:
        path.write_bytes(ElementTree.tostring(tree.getroot()))
    return list(TOOL.read(path, given))


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
    (answer,) = read(tmp_path / "r.xml", given, ticked(tree_of(paths)))
    assert np.array_equal(label_of(answer, task), label)
    assert answer.key == task.key and not any(layer.is_drawn for layer in answer.layers)
    assert (answer.annotator, answer.seconds, answer.lossy, answer.notes) == ("", None, "", ())


@pytest.mark.parametrize("grain", [1, 3, 50])
def test_runs_are_those_of_a_loop(tmp_path, grain):
    task = handed_task()
    label = scene(task, grain=grain)
    paths = written(tmp_path / "out", handout(task), lambda t: painted(t, label))
    for element in tree_of(paths).iter("mask"):
        rows, columns = np.nonzero(label == CLASSES.index(element.get("label")))
        x0, y0 = columns.min(), rows.min()
        mask = (label == CLASSES.index(element.get("label")))[
            y0 : rows.max() + 1, x0 : columns.max() + 1
        ]
        expected = mask_of(mask, x0 + task.region_in_frame[0], y0 + task.region_in_frame[1], 0)
        assert {k: element.get(k) for k in expected} == {k: str(v) for k, v in expected.items()}


def test_what_is_written(tmp_path):
    tasks = [
        handed_task(rank=1),
        handed_task(image="b/c.png", size=(8, 9), region=(0, 0, 9, 8), rank=2),
        handed_task(region=(0, 0, 5, 3), rank=3),
    ]
    paths = written(tmp_path / "out", handout(*tasks))
    assert [path.name for path in paths] == ["labels.json", "images.txt", "annotations.xml"]
    assert (tmp_path / "out" / "images.txt").read_text() == "a b#%.png\nb/c.png\n"
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert [label["name"] for label in labels] == [*CLASSES, "segal_region"]
    assert all(re.fullmatch("#[0-9a-f]{6}", label["color"]) for label in labels)
    assert all(attribute["values"] for attribute in labels[-1]["attributes"])
    images = tree_of(paths).findall("image")
    assert [(x.get("id"), x.get("name"), x.get("width"), x.get("height")) for x in images] == [
        ("0", "a b#%.png", "37", "23"),
        ("1", "b/c.png", "9", "8"),
    ]
    boxes = images[0].findall("box")
    assert [box.find("attribute[@name='task']").text for box in boxes] == [
        tasks[0].key,
        tasks[2].key,
    ]
    assert [float(boxes[0].get(x)) for x in ("xtl", "ytl", "xbr", "ybr")] == [5, 3, 37, 20]


def test_a_file_for_each_annotator(tmp_path):
    tasks = [handed_task(region=(i, 0, i + 1, 4), rank=i, who="ab"[i % 2]) for i in range(6)]
    given = handout(*tasks)
    written(tmp_path / "out", given)
    found = []
    for who in "ab":
        tree = ElementTree.parse(tmp_path / "out" / f"annotations-{who}.xml")
        answers = read(tmp_path / "r.xml", given, ticked(tree))
        assert {answer.annotator for answer in answers} == {who}
        found += [answer.key for answer in answers]
    assert sorted(found) == sorted(task.key for task in tasks)


@pytest.mark.parametrize(
    ("classes", "shown"),
    [
        (("a", "a"), "tell apart"),
        (("a" * 64 + "b", "a" * 64 + "c"), "tell apart"),
        (("a" * 65,), "64 characters"),
        (("a ",), "blanks"),
        (("Segal_region",), "own label"),
    ],
)
def test_names_that_cannot_be_kept_are_refused(classes, shown):
    with pytest.raises(SegalError, match=shown):
        TOOL.check(handout(handed_task(), classes=classes))
    TOOL.check(handout(handed_task(), classes=("a/b", "a-b", "$a", "a" * 64, "a<&\">'")))


@pytest.mark.parametrize("name", ["a\x01.png", "a\udcff.png", "a\n.png"])
def test_names_that_xml_cannot_hold_are_refused(name):
    for task in (handed_task(image=name), handed_task(who=name)):
        with pytest.raises(SegalError, match="XML cannot hold"):
            TOOL.check(handout(task))


def two_regions():
    return (
        handed_task(size=(16, 40), region=(0, 0, 20, 16), rank=1),
        handed_task(size=(16, 40), region=(20, 0, 40, 16), rank=2),
    )


def test_only_what_is_ticked_is_answered(tmp_path):
    one, two = two_regions()
    given = handout(one, two)
    tree = tree_of(written(tmp_path / "o", given))
    add(tree, "mask", "a", **mask_of(np.ones((16, 40), bool)))
    next(a for a in tree.iter("attribute") if a.get("name") == "done").text = "true"
    (answer,) = read(tmp_path / "r.xml", given, tree)
    assert answer.key == one.key
    assert [layer.mask.shape for layer in answer.layers] == [(16, 40)]  # readers do not clip


@pytest.mark.parametrize(
    ("x", "width", "expected"),
    [(0, 24, [0]), (4, 25, [0]), (4, 30, [0, 1]), (18, 20, [1]), (0, 40, [0, 1])],
)
def test_where_nothing_is_ticked_strokes_tell(tmp_path, x, width, expected):
    tasks = two_regions()
    given = handout(*tasks)
    tree = tree_of(written(tmp_path / "o", given))
    assert read(tmp_path / "r.xml", given, tree) == []
    add(tree, "mask", "a", **mask_of(np.ones((16, width), bool), x))
    answers = read(tmp_path / "r.xml", given, tree)
    assert [answer.key for answer in answers] == [tasks[i].key for i in expected]


def test_an_untouched_draft_is_nobodys_work(tmp_path):
    task = handed_task()
    given, label = handout(task, model="m"), scene(task)
    tree = tree_of(written(tmp_path / "o", given, lambda t: painted(t, label)))
    assert read(tmp_path / "r.xml", given, tree) == []
    add(tree, "mask", CLASSES[0], **mask_of(np.ones((20, 30), bool), 4, 2))
    add(tree, "mask", CLASSES[1], source="auto", **mask_of(np.ones((2, 3), bool), 6, 5))
    add(tree, "mask", CLASSES[1], source="semi-auto", **mask_of(np.ones((2, 3), bool), 6, 5, 7))
    add(tree, "points", CLASSES[1], points="1.00,2.00")
    (answer,) = read(tmp_path / "r.xml", given, tree)
    drafted = len(np.unique(label))
    assert [layer.is_drawn for layer in answer.layers] == [False] * drafted + [True, False, True]
    assert [layer.order for layer in answer.layers] == [0] * drafted + [1, 1, 7]
    assert "points" in answer.notes[0]
    (answer,) = read(tmp_path / "r.xml", handout(task), tree)  # no network: it is a person's file
    assert [layer.is_drawn for layer in answer.layers] == [True] * drafted + [True, False, True]


def test_who_and_when(tmp_path):
    one, two = two_regions()
    given = handout(one, two)
    tree = ticked(tree_of(written(tmp_path / "o", given)))
    root, image = tree.getroot(), tree.find("image")
    second = ElementTree.fromstring(ElementTree.tostring(image))
    for number, element in enumerate((image, second)):
        element.remove(element.findall("box")[number])
        element.set("task_id", str(5 + number))
        element.set("subset", "train")
    root.append(second)
    meta = "".join(
        f"<task><id>{5 + i}</id><updated>day {i}</updated><owner><username>boss</username></owner>"
        f"<assignee><username>{who}</username></assignee></task>"
        for i, who in enumerate(("bob, b", "ann"))
    )
    root.remove(root.find("meta"))
    root.insert(1, ElementTree.fromstring(f"<meta><project><tasks>{meta}</tasks></project></meta>"))
    answers = read(tmp_path / "r.xml", given, tree)
    assert [(a.key, a.annotator, a.updated) for a in answers] == [
        (two.key, "bob, b", "day 0"),
        (one.key, "ann", "day 1"),
    ]


def test_images_are_known_by_name_and_not_by_number(tmp_path):
    tasks = [handed_task(image=f"d/{i}.png", rank=i) for i in range(3)]
    given = handout(*tasks)
    tree = ticked(tree_of(written(tmp_path / "o", given)))
    for image in tree.findall("image"):
        image.set("id", "0")
        add(
            tree,
            "mask",
            image.get("name"),
            image=int(image.get("name")[2]),
            group_id=4,
            **mask_of(np.ones((3, 3), bool)),
        )
    answers = read(tmp_path / "r.xml", given, tree)
    assert [[layer.name for layer in a.layers] for a in answers] == [[t.image] for t in tasks]
    for number, name in enumerate(("0.png", "share/d/1.png", "e/2.png")):
        tree.findall("image")[number].set("name", name)
    found = read(tmp_path / "r.xml", given, tree)
    assert [isinstance(one, Answer) for one in found] == [True, True, False]
    assert "another image" in str(found[2]) and "d/2.png" in str(found[2])


def wrong_box(tree):
    next(tree.iter("box")).set("xtl", "7.00")


def sides(**given):
    return lambda tree: tree.find("image").attrib.update(given)


def of_mask(**given):
    return lambda tree: tree.find("image").find("mask").attrib.update(given)


DAMAGE = {
    "swapped": (sides(width="23", height="37"), "sides are swapped"),
    "no size": (lambda tree: tree.find("image").attrib.pop("width"), "another size"),
    "moved": (wrong_box, "was moved"),
    "turned": (lambda tree: next(tree.iter("box")).set("rotation", "30.00"), "rotated"),
    "no number": (lambda tree: next(tree.iter("box")).set("xtl", "nan"), "none"),
    "short": (of_mask(rle="0, 8"), "runs are damaged"),
    "long": (of_mask(rle="0, 10"), "runs are damaged"),
    "negative": (of_mask(rle="-1, 10"), "runs are damaged"),
    "float": (of_mask(rle="0.0, 9.0"), "runs are damaged"),
    "odd digits": (of_mask(rle="0, ９"), "runs are damaged"),
    "grouped": (of_mask(rle="0, 0_9"), "runs are damaged"),
    "huge": (of_mask(rle="0, " + "9" * 5000), "runs are damaged"),
    "empty": (of_mask(rle=""), "runs are damaged"),
    "outside": (of_mask(left="35"), "leaves the image"),
    "before": (of_mask(left="-1"), "leaves the image"),
    "flat": (of_mask(width="0"), "leaves the image"),
    "height": (of_mask(height="3.5"), "whole number"),
    "order": (of_mask(z_order="x"), "whole number"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_shapes(tmp_path, name):
    change, shown = DAMAGE[name]
    task = handed_task()
    given = handout(task)
    tree = ticked(tree_of(written(tmp_path / "o", given)))
    add(tree, "mask", "a", **mask_of(np.ones((3, 3), bool), 6, 5))
    (answer,) = read(tmp_path / "r.xml", given, tree)
    assert answer.layers[0].mask.shape == (3, 3)
    change(tree)
    (error,) = read(tmp_path / "r.xml", given, tree)
    assert isinstance(error, SegalError) and re.search(shown, str(error))
    assert error.expected and error.got and error.remedy
    for part in ("r.xml", task.key, task.image, "x 5, y 3, width 32, height 17"):
        assert part in str(error)


def test_regions_that_are_gone_or_of_others(tmp_path):
    task = handed_task()
    given = handout(task)
    tree = tree_of(written(tmp_path / "o", given))
    add(tree, "mask", "a", **mask_of(np.ones((3, 3), bool), 6, 5))
    (key,) = (x for x in tree.iter("attribute") if x.get("name") == "task")
    key.text = "0" * 16
    (error,) = read(tmp_path / "r.xml", given, tree)
    assert "not a region of this handout" in str(error) and "0" * 16 in str(error)
    image = tree.find("image")
    image.remove(image.find("box"))
    (error,) = read(tmp_path / "r.xml", given, tree)
    assert "is gone" in str(error) and task.key in str(error)
    image.set("name", "z.png")
    (error,) = read(tmp_path / "r.xml", given, tree)
    assert "not handed out" in str(error) and "z.png" in str(error)
    image.remove(image.find("mask"))
    assert read(tmp_path / "r.xml", given, tree) == []


def test_masks_as_others_write_them(tmp_path):
    """Datumaro's boxes are the whole image, and an empty mask has one pixel that is not in it."""
    task = handed_task()
    given = handout(task)
    tree = ticked(tree_of(written(tmp_path / "o", given)))
    full = np.zeros((23, 37), bool)
    full[4:7, 8:20] = True
    add(tree, "mask", "a", **mask_of(full))
    add(tree, "mask", "b", **mask_of(np.zeros((1, 1), bool)))
    (answer,) = read(tmp_path / "r.xml", given, tree)
    assert [(x.name, x.corner, x.mask.shape) for x in answer.layers] == [("a", (8, 4), (3, 12))]


def test_outlines_are_taken_as_lossy(tmp_path):
    task = handed_task(size=(60, 80), region=(0, 0, 80, 60))
    given = handout(task)
    tree = tree_of(written(tmp_path / "o", given))
    add(tree, "polygon", "a", points="10.00,10.00;30.00,10.00;30.00,25.00;10.00,25.00", z_order=2)
    add(tree, "polygon", "b", points="-5.00,-5.00;3.00,-5.00;3.00,4.00;-5.00,4.00")
    (answer,) = read(tmp_path / "r.xml", given, tree)
    assert [(x.corner, x.mask.shape, x.order) for x in answer.layers] == [
        ((10, 10), (15, 20), 2),
        ((0, 0), (4, 3), 0),
    ]
    assert all(layer.mask.all() for layer in answer.layers) and "pycocotools" in answer.lossy
    for bad in ("1,1;2,2", "1,1;2,2;1e9,3", "a,b;1,1;2,2", "1;2;3", "", "inf,0;1,1;0,1"):
        next(tree.iter("polygon")).set("points", bad)
        (error,) = read(tmp_path / "r.xml", given, tree)
        assert isinstance(error, SegalError)


def test_boxes_come_back(tmp_path):
    task = handed_task(size=(333, 217), region=(10, 20, 200, 300))
    given = handout(task, question="detection", model="m")
    boxes = [DrawnBox("a", (0, 0, 217, 333)), DrawnBox("b", (1.25, 2.5, 3.125, 4.75))]
    tree = tree_of(written(tmp_path / "o", given, lambda t: Answer(t.key, "", boxes=boxes)))
    assert read(tmp_path / "r.xml", given, tree) == []
    add(tree, "box", "c", xtl="20.00", ytl="30.00", xbr="40.50", ybr="50.00")
    (answer,) = read(tmp_path / "r.xml", given, tree)
    assert [(b.name, b.box, b.is_drawn) for b in answer.boxes] == [
        ("a", (0, 0, 217, 333), False),
        ("b", (1.25, 2.5, 3.125, 4.75), False),
        ("c", (20, 30, 40.5, 50), True),
    ]
    for number, corners in enumerate(((1, 1, 1, 5), (0, 0, 300, 5))):
        add(tree, "box", "d", **dict(zip(("xtl", "ytl", "xbr", "ybr"), corners, strict=True)))
        (error,) = read(tmp_path / "r.xml", given, tree)
        assert "no area or leaves" in str(error), number


@pytest.mark.parametrize("question", ["classification", "multilabel"])
def test_choices_come_back(tmp_path, question):
    task = handed_task()
    given = handout(task, question=question, model="m")
    tree = tree_of(written(tmp_path / "o", given, lambda t: Answer(t.key, "", choices=("a",))))
    assert not list(tree.iter("box"))
    assert read(tmp_path / "r.xml", given, tree) == []
    (answer,) = read(tmp_path / "r.xml", given, ticked(tree))
    assert answer.choices == ["a"] and "nobody touched" in answer.notes[0]
    add(tree, "tag", "b")
    (answer,) = read(tmp_path / "r.xml", given, tree)
    assert answer.choices == ["a", "b"] and answer.notes == ()


def test_a_zip_as_cvat_gives_it(tmp_path):
    task = handed_task()
    given = handout(task)
    tree = ticked(tree_of(written(tmp_path / "o", given)))
    path = tmp_path / "task.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("annotations.xml", ElementTree.tostring(tree.getroot()))
        file.writestr("images/a b#%.png", b"x")
    (answer,) = read(path, given)
    assert answer.key == task.key
    (answer,) = read(tmp_path, given)
    assert answer.key == task.key
    data = path.read_bytes()
    path.write_bytes(data[:60] + b"\0" * 40 + data[100:])
    with pytest.raises(SegalError, match="damaged"):
        read(path, given)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("other.xml", b"")
    with pytest.raises(SegalError, match=r"annotations\.xml"):
        read(path, given)


DTD = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]>'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "damaged or cut short"),
        ("<annotations><image name='a'>", "damaged or cut short"),
        ("<other/>", "<other>"),
        (DTD + "<annotations>&b;</annotations>", "DTD"),
        ("<annotations>" + "<a>" * 50, "deep"),
        ("<annotations><track/></annotations>", "video"),
        ("{}", "damaged"),
        ("<annotations>\x00</annotations>", "damaged"),
    ],
)
def test_files_that_are_no_export(tmp_path, text, shown):
    (tmp_path / "r.xml").write_text(text)
    with pytest.raises(SegalError, match=shown):
        read(tmp_path / "r.xml", handout(handed_task()))


def test_files_beyond_all_measure_are_refused(tmp_path, monkeypatch):
    where = "segal.annotation.formats.cvat_xml"
    given = handout(handed_task())
    tree = tree_of(written(tmp_path / "o", given))
    read(tmp_path / "r.xml", given, tree)
    with monkeypatch.context() as patch:
        patch.setattr(f"{where}._CHUNK", 13)
        assert read(tmp_path / "r.xml", given, ticked(tree))
    for limit in ("MAX_BYTES", "_MAX_PIECE", "_MAX_IMAGE"):
        with monkeypatch.context() as patch:
            patch.setattr(f"{where}._CHUNK", 16)
            patch.setattr(f"{where}.{limit}", 30)
            with pytest.raises(SegalError, match="more"):
                read(tmp_path / "r.xml", given)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SegalError, match="cannot be read"):
        read(tmp_path / "r.xml", handout(handed_task()))


@pytest.fixture(scope="module")
def real_bytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    task = handed_task(size=(9, 11), region=(0, 0, 11, 9))
    given = handout(task, classes=("a", "b"))
    layers = [Layer("a", np.ones((3, 3), bool)), Layer("b", np.eye(4, dtype=bool), (2, 2))]
    tree = tree_of(written(folder / "o", given, lambda t: Answer(t.key, "", layers=layers)))
    add(tree, "polygon", "a", points="1.00,1.00;2.00,2.00;3.00,1.00")
    return given, ElementTree.tostring(ticked(tree).getroot()), folder


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.sampled_from(b'0123456789-., "<>/=abez\xff\0')),
        min_size=1,
        max_size=3,
    )
)
def test_flipped_bytes_are_read_or_refused(real_bytes, flips):
    given, data, folder = real_bytes
    changed = bytearray(data)
    start = data.index(b"<image")
    for place, value in flips:
        changed[start + place % (len(changed) - start)] = value
    path = folder / "flipped.xml"
    path.write_bytes(changed)
    try:
        found = list(TOOL.read(path, given))
    except SegalError:
        return
    assert all(isinstance(one, Answer | SegalError) for one in found)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_values_of_any_kind_are_read_or_refused(real_bytes, data):
    given, content, folder = real_bytes
    root = ElementTree.fromstring(content)
    elements = [element for element in root.iter() if element.attrib]
    element = data.draw(st.sampled_from(elements))
    name = data.draw(st.sampled_from(sorted(element.attrib)))
    numbers = st.floats().map(str) | st.integers().map(str) | st.lists(st.integers(-2, 9)).map(str)
    element.set(
        name,
        data.draw(
            numbers | st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), max_size=5)
        ),
    )
    path = folder / "any.xml"
    path.write_bytes(ElementTree.tostring(root))
    found = list(TOOL.read(path, given))
    assert all(isinstance(one, Answer | SegalError) for one in found)


@pytest.mark.parametrize("late", range(3))
def test_late_answers_are_read_in_the_frame_in_which_they_were_handed_out(tmp_path, late):
    handed = in_frames()
    (task,) = handed[late].tasks
    label = scene(task)
    paths = written(tmp_path / "out", handed[late], lambda t: painted(t, label))
    (answer,) = read(tmp_path / "r.xml", as_one(handed[::-1]), ticked(tree_of(paths)))
    assert answer.frame == task.frame
    assert np.array_equal(label_of(answer, task), label)
