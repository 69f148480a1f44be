"""What is told or refused of labels that can be read."""

import numpy as np
import pytest
from PIL import Image

from segal.data.datasets import open_dataset
from segal.data.images import read_label, read_label_colours
from segal.data.layout import value_counts
from segal.errors import SegalError
from segal.jobs.labels import (
    describe_counts,
    notes_of,
    owed_regions,
    refuse_owed,
    refuse_unlabelled,
)
from segal.models.spec import ModelSpec
from segal.tasks.classes import are_numbers, check_class_names

SIZE = (20, 30)


@pytest.fixture
def make(tmp_path):
    def maker(labels, classes="sky\nroad\ncar\n", **options):
        for i, pixels in enumerate(labels):
            for kind, array in (("images", np.zeros((*SIZE, 3), np.uint8)), ("labels", pixels)):
                (tmp_path / kind / "train").mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.asarray(array, np.uint8)).save(
                    tmp_path / kind / "train" / f"{i}.png"
                )
        (tmp_path / "classes.txt").write_text(classes)
        return open_dataset(tmp_path, "train", **options)

    return maker


def noise(values, seed=0):
    return np.random.default_rng(seed).choice(np.array(values, np.uint8), SIZE)


def test_counts_are_those_of_a_loop(make):
    labels = [noise([0, 1, 4, 255], seed) for seed in range(3)]
    data = make(labels, "4 car\n0 sky\n1 road\n2 tree\n")
    counts = data.check()
    stack = np.stack(labels)
    assert counts.pixels.tolist() == [int((stack == v).sum()) for v in (0, 1, 2, 4)]
    assert counts.void == int((stack == 255).sum())
    assert counts.values.tolist() == np.bincount(stack.ravel(), minlength=256).tolist()
    assert not counts.empty
    # Boxes that overlap count once.
    boxes = {1: [(0, 0, 12, 9), (5, 3, 20, 20), (5, 3, 20, 20)]}
    inside = np.zeros(SIZE, bool)
    inside[0:9, 0:12] = inside[3:20, 5:20] = True
    within = data.check(within=boxes)
    assert within.pixels.sum() == int((labels[1][inside] != 255).sum())
    assert within.void == int((labels[1][inside] == 255).sum())


def test_boxes_without_a_label_are_found(make):
    label = noise([0, 1])
    label[:, 10:20] = 255
    data = make([label, noise([2]), np.full(SIZE, 255)])
    boxes = {0: [(10, 0, 20, 20), (9, 0, 20, 20)], 1: [(0, 0, 5, 5)], 2: [(0, 0, 30, 20)]}
    assert data.check(within=boxes).empty == {0: [(10, 0, 20, 20)], 2: [(0, 0, 30, 20)]}
    data.label_paths[1].unlink()
    counts = data.check(within=boxes)
    owed = owed_regions(data, counts.empty)
    assert [(s.rank, s.image, s.box, s.pixels) for s in owed] == [
        (1, "0.png", (10, 0, 20, 20), 200),
        (2, "1.png", (0, 0, 5, 5), 25),
        (3, "2.png", (0, 0, 30, 20), 600),
    ]
    with pytest.raises(SegalError) as caught:
        refuse_owed(owed, 4, data.pool.root, "refuse", "pixels")
    for part in ("3 of 4 regions", "0.png: x 10, y 0, width 10, height 20", "--missing-labels"):
        assert part in str(caught.value)
    refuse_owed(owed, 4, data.pool.root, "skip", "pixels")
    refuse_owed([], 4, data.pool.root, "refuse", "pixels")
    with pytest.raises(SegalError, match="none for any of them"):
        refuse_owed(owed, 3, data.pool.root, "skip", "pixels")


def test_masks_of_0_and_255_are_refused(make):
    data = make([noise([0, 255], seed) for seed in range(2)])
    counts = data.check()
    with pytest.raises(SegalError) as caught:
        data.refuse_values("train", counts)
    for part in ("all that is labelled is sky", "`255 road`", "ignore_index 255"):
        assert part in str(caught.value)
    for options, classes in (
        ({"ignore_index": 255}, "sky\nroad\n"),
        ({}, "0 sky\n1 road\n255 void\n"),
        ({}, "0 sky\n255 road\n"),
        ({}, "sky 0\nroad 255\n"),
    ):
        data = make([noise([0, 255])], classes, **options)
        data.refuse_values("train", data.check())
    # As the remedy says, 255 is then a class like any other.
    assert np.array_equal(data.read_label(0), noise([0, 255]) // 255)
    data = make([noise([0, 1, 255])])
    data.refuse_values("train", data.check())


def test_masks_of_other_values_are_explained(make):
    with pytest.raises(SegalError) as caught:
        make([noise([0, 128, 255])]).check()
    assert "128 (" in str(caught.value)
    assert "8-bit masks in which the values 0, 128, 255 stand for classes" in str(caught.value)
    data = make([noise([0, 128, 255])], "0 sky\n128 road\n255 car\n")
    assert data.check().pixels.all()
    with pytest.raises(SegalError) as caught:
        make([noise(range(100))]).check()
    assert "8-bit masks" not in str(caught.value)


def test_absent_classes_and_void_labels_are_told(make):
    data = make([noise([0, 1, 255])])
    assert notes_of(data, "train", data.check()) == ["train: 1 of 3 classes have no pixel: car"]
    lines = "\n".join(describe_counts(data, data.check(), "pixels"))
    share = 100 * (noise([0, 1, 255]) == 255).mean()
    assert f"{share:.2f} % of all pixels" in lines
    data = make([np.full(SIZE, 255)])
    (note,) = notes_of(data, "train", data.check())
    assert "all pixels are void" in note
    assert " - %" in "\n".join(describe_counts(data, data.check(), "pixels"))
    with pytest.raises(SegalError, match="cannot be trained on: train has no labels"):
        refuse_unlabelled(data, "train", data.check(), "trained on")


def test_colours_are_read_as_classes(make):
    palette = np.array([[128, 64, 128], [250, 170, 30], [0, 0, 0]], np.uint8)
    lines = "road 128 64 128\ntraffic light #FAAA1E\nvoid 0 0 0\n"
    data = make([palette[noise([0, 1, 2], seed)] for seed in range(2)], lines)
    assert data.classes.names == ("road", "traffic light")
    expected = np.where(noise([0, 1, 2]) == 2, 255, noise([0, 1, 2]))
    assert np.array_equal(data.read_label(0), expected)
    assert data.check().pixels.sum() + data.check().void == 2 * SIZE[0] * SIZE[1]
    before = data.digest()
    make([], lines.replace("128 64 128", "1 2 3"))
    assert open_dataset(data.pool.root.parents[1], "train").digest() != before
    odd = palette[noise([0, 1, 2])]
    odd[:2, :5], odd[3, :4] = (129, 64, 127), (251, 170, 30)
    with pytest.raises(SegalError) as caught:
        make([odd], lines).check()
    for part in (
        "129 64 127 (10 pixels; nearest is road 128 64 128)",
        "251 170 30 (4 pixels; nearest is traffic light 250 170 30)",
        "the 3 colours",
    ):
        assert part in str(caught.value)
    with pytest.raises(SegalError, match="not of the size"):
        make([odd[:-1]], lines).check()


def test_grey_labels_in_colour_files(tmp_path):
    grey = noise([0, 3, 255])
    for mode in ("RGB", "RGBA", "LA"):
        Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
        assert np.array_equal(read_label(tmp_path / "a.png"), grey)
        assert np.array_equal(read_label_colours(tmp_path / "a.png")[..., 1], grey)
    see_through = np.dstack([grey] * 3 + [np.where(grey == 0, 0, 255).astype(np.uint8)])
    Image.fromarray(see_through).save(tmp_path / "a.png")
    with pytest.raises(SegalError, match="no label image"):
        read_label(tmp_path / "a.png")
    with pytest.raises(SegalError, match="transparent"):
        read_label_colours(tmp_path / "a.png")


def spec(*names):
    return ModelSpec("own", "", names, (0.5,) * 3, (0.25,) * 3, stride=2)


def test_class_names_are_compared():
    check_class_names(spec("sky", "road", "car"), ("Sky", "road ", "car"), "data")
    check_class_names(spec("traffic light", "road"), ("traffic_light", "Road"), "data")
    check_class_names(spec("class 0", "class 1"), ("sky", "road"), "data")
    check_class_names(spec("LABEL_0", "LABEL_1"), ("sky", "road"), "data")
    with pytest.raises(SegalError) as caught:
        check_class_names(spec("sky", "road", "car"), ("car", "sky", "road"), "data")
    for part in ("another order", "as in the checkpoint: sky, road, car", "got: car, sky, road"):
        assert part in str(caught.value)
    with pytest.raises(SegalError, match="other classes than the network's") as caught:
        check_class_names(spec("sky", "road"), ("sky", "lane"), "data")
    assert "--new-classes" in str(caught.value)
    with pytest.raises(SegalError, match="other classes than the network's"):
        check_class_names(spec("class 0", "class 1"), ("sky",), "data")


def test_names_that_only_number_classes():
    assert are_numbers(["class 0", "class 1"])
    assert are_numbers(["0", "1", "2"])
    assert not are_numbers(["class 1", "class 0"])
    assert not are_numbers(["lane 0", "lane 1"])


def test_large_labels_are_counted_to_the_pixel():
    values = np.zeros((4200, 4200), np.uint8)  # more than float32 counts one by one
    values[7, 11] = 3
    assert value_counts(values)[[0, 3]].tolist() == [4200 * 4200 - 1, 1]
    assert value_counts(values[:, :9]).sum() == 4200 * 9
