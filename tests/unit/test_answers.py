"""Answers become labels of their regions, whatever was asked."""

import json
from dataclasses import replace

import numpy as np
import pytest

from segal.annotation.answers import Answer, DrawnBox, Layer
from segal.annotation.dealing import crop_frame, deal
from segal.annotation.handout import AnnotationTask, Handout
from segal.annotation.manifest import manifest_text, read_manifest_text
from segal.annotation.questions import QUESTIONS
from segal.annotation.questions.base import Rules
from segal.errors import SegalError

CLASSES = ["road", "car", "sky"]
PAINTING = QUESTIONS["segmentation"]


def task(region=(2, 3, 7, 9), frame=(0, 0, 20, 16), size=(16, 20)):
    return AnnotationTask("k", 1, "a.png", "d", size, region, frame, "a.png")


def layer(name, box, frame=(0, 0), **more):
    """A filled box of the image, as a layer of a frame that begins at `frame`."""
    x0, y0, x1, y1 = box
    corner = x0 - frame[0], y0 - frame[1]
    return Layer(name, np.ones((y1 - y0, x1 - x0), np.bool_), corner, **more)


def settle(layers, rules=None, one=None):
    answer = Answer("k", "export.json, task 7", layers=layers)
    return PAINTING.settle(answer, one or task(), CLASSES, rules or Rules())


def by_pixels(layers, one):
    """The label by going through all pixels, later layers on top of equal or lower order."""
    label = np.full(one.size, 255, np.uint8)
    for added in sorted(layers, key=lambda x: x.order):
        for y in range(added.mask.shape[0]):
            for x in range(added.mask.shape[1]):
                if added.mask[y, x]:
                    place = y + added.corner[1] + one.frame[1], x + added.corner[0] + one.frame[0]
                    label[place] = CLASSES.index(added.name)
    x0, y0, x1, y1 = one.region
    return label[y0:y1, x0:x1]


@pytest.mark.parametrize("frame", [(0, 0, 20, 16), (1, 2, 12, 14)])
def test_layers_lie_on_one_another_and_are_clipped_to_the_region(frame):
    rng = np.random.default_rng(0)
    one = task(frame=frame)
    height, width = one.frame_size
    for _ in range(20):
        layers = [Layer("road", np.ones((height, width), np.bool_))]
        for order in range(1, 4):
            x, y = rng.integers(0, width - 3), rng.integers(0, height - 3)
            mask = rng.random((3, 3)) < 0.7
            layers.append(Layer(CLASSES[rng.integers(3)], mask, (int(x), int(y)), order))
        rng.shuffle(layers)
        settled = settle(layers, one=one)
        np.testing.assert_array_equal(settled.label, by_pixels(layers, one))
        region = np.zeros((height, width), np.bool_)
        x0, y0, x1, y1 = one.region_in_frame
        region[y0:y1, x0:x1] = True
        outside = 0
        for added in layers:
            x, y = added.corner
            h, w = added.mask.shape
            outside += int((added.mask & ~region[y : y + h, x : x + w]).sum())
        assert settled.counts["outside"] == outside


def one_after_the_other(layers, one):
    """The label and what is counted, by going through the pixels of every layer."""
    left, top, right, bottom = one.region_in_frame
    tops = {(x, y): (None, None, False) for y in range(top, bottom) for x in range(left, right)}
    counts = dict.fromkeys(["outside", "overlaps"], 0)
    for added in sorted(layers, key=lambda x: (x.order, x.is_drawn)):
        for y, x in np.argwhere(added.mask).tolist():
            place = x + added.corner[0], y + added.corner[1]
            if place not in tops:
                counts["outside"] += added.is_drawn
                continue
            name, order, drawn = tops[place]
            differs = added.is_drawn and drawn and name != added.name
            clashes = differs and order == added.order
            counts["overlaps"] += differs and not clashes
            tops[place] = "a clash" if clashes else added.name, added.order, added.is_drawn
    names = [name for name, _, _ in tops.values()]
    counts |= {"unpainted": names.count(None), "conflicts": names.count("a clash")}
    counts["untouched"] = sum(name is not None and not drawn for name, _, drawn in tops.values())
    label = [CLASSES.index(name) if name in CLASSES else 255 for name in names]
    return np.reshape(label, (bottom - top, right - left)), counts


@pytest.mark.parametrize(("count", "times"), [(2, 20), (9, 20), (140, 1)])
def test_what_is_counted_of_layers_is_what_was_painted_pixel_by_pixel(count, times):
    rng = np.random.default_rng(count)
    one = task(frame=(1, 2, 12, 14))
    height, width = one.frame_size
    for _ in range(times):
        layers = []
        for _ in range(count):
            y, x = int(rng.integers(height - 1)), int(rng.integers(width - 1))
            mask = rng.random((height - y, width - x))[: rng.integers(1, 9)] < 0.6
            name = [*CLASSES, "void"][rng.integers(4)]
            order, is_drawn = int(rng.integers(-1, 2)), bool(rng.random() < 0.6)
            layers.append(Layer(name, mask, (x, y), order, is_drawn))
        settled = settle(layers, Rules("ignore", "ignore"), one)
        label, counts = one_after_the_other(layers, one)
        np.testing.assert_array_equal(settled.label, label)
        assert settled.counts == counts


def test_pixels_of_two_labels_of_one_order_are_refused_or_void():
    layers = [layer("road", (2, 3, 7, 9)), layer("car", (2, 3, 4, 5), order=0)]
    with pytest.raises(SegalError, match="4 pixels have two labels") as error:
        settle(layers)
    assert "a.png at x 2, y 3, width 5, height 6" in str(error.value)
    settled = settle(layers, Rules(conflicts="ignore"))
    assert (settled.label[:2, :2] == 255).all()
    assert (settled.label == 255).sum() == settled.counts["conflicts"] == 4
    on_top = settle([*layers, layer("sky", (2, 3, 4, 5), order=1)])
    assert (on_top.label[:2, :2] == 2).all()


def test_what_is_not_painted_is_refused_or_void_or_of_a_class():
    layers = [layer("car", (2, 3, 7, 8))]
    with pytest.raises(SegalError, match="5 of 30 pixels are not painted"):
        settle(layers)
    assert (settle(layers, Rules(unpainted="ignore")).label[-1] == 255).all()
    settled = settle(layers, Rules(unpainted="sky"))
    assert (settled.label[-1] == 2).all()
    assert settled.counts["unpainted"] == 5


def test_void_can_be_painted_and_unknown_labels_are_named():
    settled = settle([layer("road", (2, 3, 7, 9)), layer("void", (2, 3, 3, 4), order=1)])
    assert settled.label[0, 0] == 255
    assert settled.counts["unpainted"] == 0
    with pytest.raises(SegalError, match="did you mean 'road'"):
        settle([layer("roads", (2, 3, 7, 9))])


def test_what_nobody_touched_is_counted_and_can_be_left_out():
    draft = layer("road", (2, 3, 7, 9), is_drawn=False)
    settled = settle([draft, layer("car", (2, 3, 7, 4))])
    assert settled.counts["untouched"] == 25
    assert settled.counts["overlaps"] == settled.counts["conflicts"] == 0
    np.testing.assert_array_equal(settled.label[0], 1)
    with pytest.raises(SegalError, match="25 of 30 pixels are not painted"):
        settle([draft, layer("car", (2, 3, 7, 4))], Rules(untouched="ignore"))


def test_labels_and_answers_are_each_others_inverse():
    rng = np.random.default_rng(1)
    one = task(frame=(1, 1, 13, 12))
    label = rng.integers(0, 3, (6, 5)).astype(np.uint8)
    label[0, 0] = 255
    answer = PAINTING.answer(label, one, CLASSES)
    assert not any(x.is_drawn for x in answer.layers)
    settled = PAINTING.settle(answer, one, CLASSES, Rules(unpainted="ignore"))
    np.testing.assert_array_equal(settled.label, label)
    data = PAINTING.encode(label)
    np.testing.assert_array_equal(PAINTING.decode(data, one.region), label)
    with pytest.raises(ValueError, match="size"):
        PAINTING.decode(data, (0, 0, 6, 6))
    whole = np.arange(16 * 20, dtype=np.uint8).reshape(16, 20)
    pasted = PAINTING.pasted(whole, label, one.region)
    np.testing.assert_array_equal(pasted[3:9, 2:7], label)
    pasted[3:9, 2:7] = whole[3:9, 2:7]
    np.testing.assert_array_equal(pasted, whole)


def test_boxes_belong_to_the_region_that_holds_their_centre():
    boxing, one = QUESTIONS["detection"], task(frame=(1, 2, 12, 14))
    drawn = [
        DrawnBox("car", (0.5, 0.5, 4.5, 4.25)),
        DrawnBox("sky", (8.0, 8.0, 11.0, 12.0)),
        DrawnBox("road", (0.0, 3.0, 1.25, 5.0), is_drawn=False),
    ]
    answer = Answer("k", "f", boxes=drawn)
    settled = boxing.settle(answer, one, CLASSES, Rules())
    # Centres in the image are (3.5, 4.375), (10.5, 12) and (1.625, 6).
    assert settled.label.boxes.tolist() == [[1.5, 2.5, 5.5, 6.25]]
    assert settled.label.known == ((2, 3, 7, 9),)
    assert settled.counts == {"outside": 1, "untouched": 0}
    back = boxing.decode(boxing.encode(settled.label), one.region)
    assert boxing.digest(back) == boxing.digest(settled.label)
    again = boxing.settle(boxing.answer(back, one, CLASSES), one, CLASSES, Rules())
    assert boxing.digest(again.label) == boxing.digest(back)
    with pytest.raises(SegalError, match="1 boxes without area"):
        boxing.settle(
            Answer("k", "f", boxes=[DrawnBox("car", (3, 3, 3, 5))]), one, CLASSES, Rules()
        )
    pasted = boxing.pasted(boxing.blank(one.size), back, one.region)
    assert boxing.digest(pasted.keep([one.region])) == boxing.digest(back)


def test_agreement_of_boxes_takes_the_best_pairs():
    boxing, one = QUESTIONS["detection"], task((0, 0, 20, 16))
    labels = [
        boxing.settle(
            Answer("k", "f", boxes=[DrawnBox(name, box) for name, box in boxes]),
            *(one, CLASSES, Rules()),
        ).label
        for boxes in (
            [("car", (0, 0, 4, 4)), ("car", (10, 0, 14, 4)), ("sky", (0, 8, 4, 12))],
            [("car", (0, 0, 4, 3)), ("road", (10, 0, 14, 4)), ("sky", (2, 8, 6, 12))],
        )
    ]
    # The boxes of sky share a third only.
    assert boxing.agreement(*labels, 3).tolist() == [[0, 0, 1], [1, 1, 0], [0, 1, 1]]


def test_agreement_of_pixels():
    a, b = np.array([[0, 1, 2, 255]], np.uint8), np.array([[0, 2, 2, 1]], np.uint8)
    assert PAINTING.agreement(a, b, 3).tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize("several", [False, True])
def test_choices(several):
    choosing = QUESTIONS["multilabel" if several else "classification"]
    one = task((0, 0, 20, 16))
    box = (0, 0, 1, 3) if several else (0, 0, 1, 1)
    answer = Answer("k", "f", choices=["sky"])
    label = choosing.settle(answer, one, CLASSES, Rules()).label
    assert label.ravel().tolist() == ([0, 0, 1] if several else [2])
    back = choosing.decode(choosing.encode(label), box)
    np.testing.assert_array_equal(back, label)
    assert choosing.digest(back) == choosing.digest(label)
    assert list(choosing.answer(label, one, CLASSES).choices) == ["sky"]
    both = Answer("k", "f", choices=["sky", "road"])
    if several:
        assert choosing.settle(both, one, CLASSES, Rules()).label.ravel().tolist() == [1, 0, 1]
    else:
        with pytest.raises(SegalError, match="2 classes are chosen"):
            choosing.settle(both, one, CLASSES, Rules())
    with pytest.raises(SegalError, match="'skies' is none of the classes"):
        choosing.settle(Answer("k", "f", choices=["skies"]), one, CLASSES, Rules())


def test_dealing_gives_everyone_picks_from_the_first_to_the_last():
    tasks = [
        AnnotationTask(str(i), i, "a.png", "", (8, 8), (0, 0, 8, 8), (0, 0, 8, 8), "")
        for i in range(1, 101)
    ]
    dealt = deal(tasks, ["a", "b", "c"], 0.2)
    assert sum(t.annotator == "a" for t in dealt) in (40, 41)
    doubled = {t.key for t in dealt if sum(o.key == t.key for o in dealt) == 2}
    assert len(doubled) == 20
    assert len(dealt) == 120
    for key in doubled:
        assert len({t.annotator for t in dealt if t.key == key}) == 2
    assert deal(tasks, [], 0.5) == tasks


def test_crops_hold_the_region_and_are_no_smaller_than_tools_show():
    rng = np.random.default_rng(2)
    for _ in range(300):
        height, width = rng.integers(1, 90, 2).tolist()
        x0, y0 = int(rng.integers(width)), int(rng.integers(height))
        x1, y1 = int(rng.integers(x0, width)) + 1, int(rng.integers(y0, height)) + 1
        pad = int(rng.integers(0, 9))
        fx0, fy0, fx1, fy1 = crop_frame((x0, y0, x1, y1), (height, width), pad)
        assert 0 <= fx0 <= max(0, x0 - pad)
        assert width >= fx1 >= min(width, x1 + pad)
        assert 0 <= fy0 <= max(0, y0 - pad)
        assert height >= fy1 >= min(height, y1 + pad)
        assert fx1 - fx0 >= min(32, width)
        assert fy1 - fy0 >= min(32, height)


def test_a_handout_is_what_its_manifest_says():
    one = task(frame=(1, 1, 13, 12))
    handout = Handout("r", "coco", "crop", "segmentation", ("a", "void"), None, (one,), void=True)
    assert read_manifest_text(manifest_text(handout), "f") == handout
    written = replace(handout, files={"crops/1.png": "0" * 64})
    assert read_manifest_text(manifest_text(written), "f") == written
    old = json.loads(manifest_text(handout))
    del old["files"]  # as it was before these were written down
    assert read_manifest_text(json.dumps(old), "f") == handout
    for wrong in ("", "{}", "[]", "[" * 10_000, manifest_text(handout).replace("crop", "x")):
        with pytest.raises(SegalError, match="no handout of segal"):
            read_manifest_text(wrong, "f")
