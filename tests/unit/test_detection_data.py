"""Data sets of detection: four layouts are read, written, and refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from segal.errors import SegalError
from segal.functional.labels import region_digest
from segal.tasks.detection.datasets import (
    LAYOUTS,
    class_names,
    is_dataset,
    layout_name,
    open_split,
    splits,
)
from segal.tasks.detection.objects import Objects
from segal.tasks.detection.writing import LabelledImage, images_folder, write_labels
from tests.conftest import write_image

NAMES = ("cell", "red rod", "dot & <dash>")
HEIGHT, WIDTH = 40, 60


def label(rows, crowd=()):
    boxes = np.array([row[:4] for row in rows], float).reshape(-1, 4)
    classes = np.array([row[4] for row in rows], np.int64)
    crowds = np.array([i in crowd for i in range(len(rows))], bool)
    return Objects(boxes, classes, crowds, ((0, 0, WIDTH, HEIGHT),))


LABELS = {
    "a 1.png": label([(1, 2, 11, 22, 0), (0.1, 0.7, 59.3, 39.9, 1)]),
    "b.png": label([]),
    "c.png": label([(30, 5, 60, 40, 2), (3, 3, 9, 9, 2), (3, 3, 9, 9, 0)]),
}


def write_set(root, layout, labels=LABELS, split="train"):
    folder = images_folder(root, layout, split)
    for seed, path in enumerate(labels):
        write_image(folder / path, HEIGHT, WIDTH, seed)
    prefix = "images/" if layout == "csv" else ""
    rows = [LabelledImage(prefix + path, HEIGHT, WIDTH, one) for path, one in labels.items()]
    if layout == "csv":
        for path in labels:
            (root / "images").mkdir(exist_ok=True)
            (root / path).rename(root / "images" / path)
    write_labels(root, layout, split, rows, NAMES)
    return root


def as_rows(objects):
    parts = (objects.boxes.tolist(), objects.classes.tolist(), objects.crowd.tolist())
    return list(zip(*parts, strict=True))


def refused(root, split="train", **options):
    with pytest.raises(SegalError) as caught:
        open_split(root, split, **options)
    return str(caught.value)


def noted(dataset):
    return "\n".join(dataset.notes())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_is_read_back(tmp_path, layout):
    write_set(tmp_path, layout)
    write_set(tmp_path, layout, {"d.png": LABELS["a 1.png"]}, "val")
    assert is_dataset(tmp_path)
    assert splits(tmp_path) == ["train", "val"]
    dataset = open_split(tmp_path, "train")
    assert dataset.classes.names == NAMES == class_names(tmp_path, "train").names
    assert [p.rpartition("/")[2] for p in dataset.pool.paths] == list(LABELS)
    for index, truth in enumerate(LABELS.values()):
        objects = dataset.read_label(index)
        assert objects.known == truth.known
        tolerance = 1e-13 if layout == "yolo" else 0  # shares of the sides are no pixels
        assert np.abs(objects.boxes - truth.boxes).max(initial=0) <= tolerance
        assert np.array_equal(objects.classes, truth.classes)
    assert dataset.notes() == []
    counts = dataset.check()
    assert counts.pixels.tolist() == [2, 1, 2]
    assert (counts.void, dict(counts.empty)) == (0, {})
    assert len(open_split(tmp_path, "val")) == 1


@pytest.mark.parametrize("layout", ["coco", "csv", "voc"])
def test_crowds_are_written_and_read_back(tmp_path, layout):
    one = label([(1, 2, 11, 22, 0), (0.1, 0.7, 59.3, 39.9, 1)], crowd={1})
    write_set(tmp_path, layout, {"a.png": one, "c.png": LABELS["c.png"]})
    dataset = open_split(tmp_path, "train")
    assert as_rows(dataset.read_label(0)) == as_rows(one)
    assert dataset.check().void == 1
    assert dataset.check().pixels.tolist() == [2, 0, 2]
    if layout == "coco":
        assert "crowd regions" in noted(dataset)


def test_yolo_has_no_crowds(tmp_path):
    one = label([(1, 2, 11, 22, 0), (0, 0, 50, 30, 1)], crowd={1})
    write_set(tmp_path, "yolo", {"a.png": one})
    assert open_split(tmp_path, "train").check().pixels.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("layout", "path", "split", "names"),
    [
        ("voc", "../a.png", "train", NAMES),
        ("voc", "/a.png", "train", NAMES),
        ("yolo", "a.png", "first", NAMES),
        ("coco", "a.png", "x/y", NAMES),
        ("csv", "a.png", "train", ("two\nlines",)),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, layout, path, split, names):
    with pytest.raises(SegalError, match="cannot be written"):
        write_labels(tmp_path, layout, split, [LabelledImage(path, 40, 60, LABELS["b.png"])], names)
    assert list(tmp_path.iterdir()) == []


def test_subset_digest_and_counts_within_boxes(tmp_path):
    dataset = open_split(write_set(tmp_path, "voc"), "train")
    assert dataset.digest() == open_split(tmp_path, "train").digest()
    part = dataset.subset([2, 0])
    assert part.pool.paths == ("c.png", "a 1.png")
    assert as_rows(part.read_label(0)) == as_rows(LABELS["c.png"])
    assert part.digest() == dataset.digest([2, 0]) != dataset.digest([0, 2])
    moved = replace(
        LABELS["c.png"], boxes=LABELS["c.png"].boxes + np.array([[0, 0, 0, -1], [0] * 4, [0] * 4])
    )
    changed = replace(dataset, objects=(*dataset.objects[:2], moved))
    assert changed.digest() != dataset.digest()
    assert changed.digest([0, 1]) == dataset.digest([0, 1])
    told = [data.digests() for data in (dataset, changed)]
    assert [path for path in told[0] if told[0][path] != told[1][path]] == ["c.png"]
    # What a region's label says is what is known of objects whose centre lies there.
    box = moved.boxes[0]
    x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
    regions = [(x - 2, y - 2, x + 3, y + 3), (0, 0, x - 2, y - 2)]
    same = [
        region_digest(moved, region) == region_digest(LABELS["c.png"], region) for region in regions
    ]
    assert same == [False, True]
    arrays = np.array(regions[1], np.int32)
    assert region_digest(moved, tuple(arrays)) == region_digest(moved, regions[1])
    within = {2: [(0, 0, 30, 40)]}
    assert dataset.check(within=within).pixels.tolist() == [1, 0, 1]
    assert dataset.check([1]).pixels.tolist() == [0, 0, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_some_images(tmp_path, layout):
    root = write_set(tmp_path, layout)
    path = "images/c.png" if layout == "csv" else "c.png"
    assert open_split(root, "train", only=[path]).pool.paths == (path,)
    assert (
        open_split(root, "train", only=lambda _, paths: paths[:1]).pool.paths[0].endswith("1.png")
    )
    assert "not of split 'train'" in refused(root, only=["x.png"])


def test_a_share_of_train_is_validation(tmp_path):
    root = write_set(tmp_path, "yolo", {f"{i}.png": LABELS["a 1.png"] for i in range(10)})
    assert splits(root, validation_share=0.3) == ["train", "val"]
    parts = [open_split(root, split, validation_share=0.3).pool.paths for split in ("train", "val")]
    assert [len(part) for part in parts] == [7, 3]
    assert not set(parts[0]) & set(parts[1])
    assert "no split 'val'" in refused(root, "val")


@pytest.mark.parametrize("layout", ["voc", "yolo"])
def test_what_is_not_split_is_split_by_hash(tmp_path, layout):
    root = write_set(tmp_path, layout, {f"{i}.png": LABELS["a 1.png"] for i in range(20)})
    if layout == "voc":
        (root / "ImageSets/Main/train.txt").unlink()
    else:
        for kind in ("images", "labels"):
            for file in (root / kind / "train").iterdir():
                file.rename(root / kind / file.name)
            (root / kind / "train").rmdir()
        (root / "data.yaml").unlink()
        (root / "classes.txt").write_text("\n".join(NAMES))
    assert splits(root) == ["test", "train", "val"]
    assert sum(len(open_split(root, split)) for split in splits(root)) == 20


def test_layouts_are_told_apart(tmp_path):
    assert layout_name("voc") == "voc"
    with pytest.raises(SegalError, match="layout"):
        layout_name("kitti")
    assert not is_dataset(tmp_path)
    message = refused(tmp_path)
    assert "an empty folder" in message
    assert "instances_<split>.json" in message
    write_set(tmp_path, "voc")
    write_set(tmp_path, "yolo")
    assert "more than one layout" in refused(tmp_path)
    assert len(open_split(tmp_path, "train", layout="yolo")) == 3


# Boxes that are not as they should be, in every layout.

BAD = {
    "flat": ((5, 5, 5, 9), "without area, left out: 1"),
    "turned": ((20, 5, 10, 9), "x0 > x1 or y0 > y1, left out: 1"),
    "outside": ((60, 10, 70, 20), "outside their image, left out: 1"),
    "leaves": ((50, 10, 70, 20), "leave their image, clipped: 1"),
    "again": ((1, 2, 11, 22), "repeat another of their image and class, left out: 1"),
}


def raw(root, layout, box):
    """A data set of one image with a good box, and another as it is."""
    boxes = [(1, 2, 11, 22), box]
    write_set(root, layout, {"a.png": label([(*boxes[0], 0)])})
    x0, y0, x1, y1 = box
    if layout == "voc":
        file = root / "Annotations/a.xml"
        one = (
            "<object><name>cell</name><bndbox>"
            f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
            "</bndbox></object></annotation>"
        )
        file.write_text(file.read_text().replace("</annotation>", one))
    elif layout == "coco":
        file = root / "annotations/instances_train.json"
        content = json.loads(file.read_text())
        bbox = [x0, y0, x1 - x0, y1 - y0]
        content["annotations"].append({"id": 9, "image_id": 1, "category_id": 1, "bbox": bbox})
        file.write_text(json.dumps(content))
    elif layout == "yolo":
        with (root / "labels/train/a.txt").open("a") as file:
            middle = (x0 / WIDTH + x1 / WIDTH) / 2, (y0 / HEIGHT + y1 / HEIGHT) / 2
            sides = x1 / WIDTH - x0 / WIDTH, y1 / HEIGHT - y0 / HEIGHT
            file.write(f"0 {' '.join(map(str, (*middle, *sides)))}\n")
    else:
        with (root / "train.csv").open("a") as file:
            file.write(f"images/a.png,{x0},{y0},{x1},{y1},cell,0\n")
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", BAD)
def test_bad_boxes_are_left_out_and_told(tmp_path, layout, kind):
    box, message = BAD[kind]
    dataset = open_split(raw(tmp_path, layout, box), "train")
    assert message in noted(dataset)
    assert len(dataset.notes()) == 1
    expected = [[1, 2, 11, 22]] + ([[50, 10, 60, 20]] if kind == "leaves" else [])
    assert np.allclose(dataset.read_label(0).boxes, expected, atol=1e-12)


def test_notes_of_a_subset_are_of_its_images(tmp_path):
    labels = {f"{i}.png": label([(1, 2, 11, 22, 0)]) for i in range(3)}
    write_set(tmp_path, "csv", labels)
    with (tmp_path / "train.csv").open("a") as file:
        file.write("images/1.png,5,5,5,5,cell,0\n")
    dataset = open_split(tmp_path, "train")
    assert "images/1.png (cell 5, 5, 5, 5)" in noted(dataset)
    assert dataset.subset([0, 2]).notes() == []
    assert dataset.subset([1]).notes() == dataset.notes()


def test_boxes_of_two_classes_on_one_place_are_two(tmp_path):
    one = label([(1, 2, 11, 22, 0), (1, 2, 11, 22, 1)])
    dataset = open_split(write_set(tmp_path, "voc", {"a.png": one}), "train")
    assert as_rows(dataset.read_label(0)) == as_rows(one)


# Pascal VOC


def annotation(root, text, name="a 1"):
    (root / f"Annotations/{name}.xml").write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "no well-formed XML"),
        ("", "no well-formed XML"),
        ("<html></html>", "<html>"),
        ('<!DOCTYPE annotation [<!ENTITY a "b">]><annotation/>', "a DTD or an entity"),
        ('<!DOCTYPE annotation SYSTEM "http://x/y.dtd"><annotation/>', "a DTD or an entity"),
        ("<annotation>" + "<a>" * 40 + "</a>" * 40 + "</annotation>", "deep"),
        ("<annotation><object><name>cell</name></object></annotation>", "no whole <bndbox>"),
        (
            "<annotation><object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax>"
            "<ymax>2</ymax></bndbox></object></annotation>",
            "no <name>",
        ),
        (
            "<annotation><object><name>cell</name><bndbox><xmin>one</xmin><ymin>1</ymin>"
            "<xmax>2</xmax><ymax>2</ymax></bndbox></object></annotation>",
            "no number",
        ),
        (
            "<annotation><object><name>cel</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
            "<xmax>2</xmax><ymax>2</ymax></bndbox></object></annotation>",
            "write cell",
        ),
        (
            "<annotation><size><width>600</width><height>400</height></size></annotation>",
            "600 x 400",
        ),
    ],
)
def test_bad_annotations_are_refused(tmp_path, text, message):
    assert message in refused(annotation(write_set(tmp_path, "voc"), text))


def test_an_entity_is_not_expanded(tmp_path):
    lines = [f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12)]
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "x">{"".join(lines)}]><annotation>&e11;</annotation>'
    assert "a DTD or an entity" in refused(annotation(write_set(tmp_path, "voc"), bomb))


def test_all_bad_annotations_are_told_at_once(tmp_path):
    root = annotation(annotation(write_set(tmp_path, "voc"), "<a"), "<b", "c")
    message = refused(root)
    assert "a 1.xml" in message
    assert "c.xml" in message


def test_an_annotation_larger_than_16_mib_is_refused(tmp_path):
    root = annotation(write_set(tmp_path, "voc"), f"<annotation>{' ' * 2**24}</annotation>")
    assert "16,777,216 bytes" in refused(root)


def test_parts_of_an_object_are_no_objects(tmp_path):
    text = (
        "<annotation><filename>a 1.png</filename><object><name>cell</name>"
        "<part><name>head</name><bndbox><xmin>7</xmin><ymin>7</ymin><xmax>8</xmax><ymax>8</ymax>"
        "</bndbox></part><bndbox><xmax>9</xmax><xmin>1</xmin><ymin>2</ymin><ymax>12.5</ymax>"
        "</bndbox></object></annotation>"
    )
    dataset = open_split(annotation(write_set(tmp_path, "voc"), text), "train")
    assert as_rows(dataset.read_label(0)) == [([1, 2, 9, 12.5], 0, False)]


def test_names_that_annotations_give_their_images_are_noted(tmp_path):
    text = "<annotation><filename>C:\\data\\other.jpg</filename></annotation>"
    dataset = open_split(annotation(write_set(tmp_path, "voc"), text), "train")
    assert "labels that name another image" in noted(dataset)
    assert "a 1.xml (filename other.jpg)" in noted(dataset)


def test_classes_are_those_that_occur_where_none_are_listed(tmp_path):
    root = write_set(tmp_path, "voc")
    (root / "classes.txt").unlink()
    assert open_split(root, "train").classes.names == tuple(sorted(NAMES))


def test_lists_by_class_are_no_splits(tmp_path):
    root = write_set(tmp_path, "voc")
    (root / "ImageSets/Main/cell_train.txt").write_text("b  1\nc -1\n")
    (root / "ImageSets/Main/my_train.txt").write_text("b\nc\n")
    assert splits(root) == ["my_train", "train"]


def test_annotations_without_images_and_the_other_way_round(tmp_path):
    root = annotation(write_set(tmp_path, "voc"), "<annotation/>", "lost")
    assert "labels without an image, left out: 1 (lost.xml)" in noted(open_split(root, "train"))
    (root / "Annotations/b.xml").unlink()
    assert "1 of 3 without: b.png" in refused(root)
    dataset = open_split(root, "train", missing_labels=True)
    assert [one.known for one in dataset.objects] == [
        ((0, 0, WIDTH, HEIGHT),),
        (),
        ((0, 0, WIDTH, HEIGHT),),
    ]
    assert dict(dataset.check().empty) == {1: [(0, 0, WIDTH, HEIGHT)]}
    assert dict(dataset.check(within={1: [(0, 0, 9, 9)], 0: [(0, 0, 1, 1)]}).empty) == {
        1: [(0, 0, 9, 9)]
    }


def test_annotations_of_another_split_need_not_be_sound(tmp_path):
    root = annotation(write_set(tmp_path, "voc"), "<broken", "elsewhere")
    assert len(open_split(root, "train")) == 3
    assert len(open_split(annotation(root, "<broken", "c"), "train", only=["b.png"])) == 1


def test_sides_that_are_exchanged_are_noted(tmp_path):
    text = "<annotation><size><width>40</width><height>60</height></size></annotation>"
    dataset = open_split(annotation(write_set(tmp_path, "voc"), text), "train")
    assert "width and height are exchanged" in noted(dataset)
    zero = "<annotation><size><width>0</width><height>0</height></size></annotation>"
    assert open_split(annotation(tmp_path, zero), "train").notes() == []


def test_a_link_to_an_annotation_elsewhere_is_refused(tmp_path):
    root = write_set(tmp_path / "set", "voc")
    (tmp_path / "secret.xml").write_text("<annotation/>")
    (root / "Annotations/b.xml").unlink()
    (root / "Annotations/b.xml").symlink_to(tmp_path / "secret.xml")
    assert "leads out of the folder" in refused(root)


def test_annotations_beside_images_as_roboflow_writes_them(tmp_path):
    root = write_set(tmp_path, "voc")
    (root / "train").mkdir()
    for file in [*(root / "JPEGImages").iterdir(), *(root / "Annotations").iterdir()]:
        file.rename(root / "train" / file.name)
    for name in ("JPEGImages", "Annotations"):
        (root / name).rmdir()
    assert splits(root) == ["train"]
    assert open_split(root, "train").check().pixels.tolist() == [2, 1, 2]


# COCO


def changed(root, change):
    file = root / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return root


def test_categories_may_have_gaps(tmp_path):
    def change(content):
        for entry in content["categories"]:
            entry["id"] = 10 * entry["id"]
        for entry in content["annotations"]:
            entry["category_id"] *= 10
        content["categories"].reverse()

    dataset = open_split(changed(write_set(tmp_path, "coco"), change), "train")
    assert dataset.classes.names == NAMES
    assert dataset.check().pixels.tolist() == [2, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"].append({**c["images"][0], "file_name": "z.png"}), "image: not as"),
        (lambda c: c["images"].append({**c["images"][0], "id": 99}), "a file_name of its own"),
        (lambda c: c["categories"].append({"id": 1, "name": "x"}), "category: not as"),
        (lambda c: c["categories"].append({"id": 9, "name": NAMES[0]}), "a name of its own"),
        (lambda c: c["categories"].clear(), "categories with ids and names"),
        (lambda c: c["images"].clear(), "lists no image"),
        (lambda c: c["images"][0].pop("id"), "image 0"),
        (lambda c: c["images"][0].update(file_name=3), "image 0"),
        (lambda c: c["images"][0].update(id=[1]), "image 0"),
        (lambda c: c["annotations"][0].update(category_id=77), "a listed category: 1, 2, 3"),
        (lambda c: c["annotations"][0].update(category_id=[1]), "a listed category"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "x, y, width, height"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, "4"]), "x, y, width, height"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "x, y, width"),
        (lambda c: c["annotations"][0].pop("bbox"), "x, y, width, height"),
        (lambda c: c.update(annotations={}), "annotations: dict"),
        (lambda c: c.update(images=[3]), "images: list"),
        (lambda c: c.pop("categories"), "categories: NoneType"),
        (lambda c: c["images"][0].update(file_name="missing.png"), "missing.png"),
        (lambda c: c["images"][0].update(file_name="../../etc/passwd.png"), "leads out"),
        (lambda c: c["images"][0].update(width=6, height=4), "6 x 4"),
    ],
)
def test_bad_coco_is_refused(tmp_path, change, message):
    assert message in refused(changed(write_set(tmp_path, "coco"), change))


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\ufeff"])
def test_what_is_no_coco_is_refused(tmp_path, text):
    root = write_set(tmp_path, "coco")
    (root / "annotations/instances_train.json").write_text(text)
    assert "lists of images, annotations and categories" in refused(root)


def test_all_bad_annotations_of_coco_are_told_at_once(tmp_path):
    def change(content):
        content["annotations"][0]["category_id"] = 77
        content["annotations"][1]["bbox"] = None

    message = refused(changed(write_set(tmp_path, "coco"), change))
    assert "annotation 1" in message
    assert "annotation 2" in message


def test_ids_that_occur_twice_and_boxes_of_no_image_are_noted(tmp_path):
    def change(content):
        content["annotations"][1]["id"] = 1
        content["annotations"].append(
            {"id": 8, "image_id": 1234, "category_id": 1, "bbox": [1, 2, 3, 4]}
        )

    dataset = open_split(changed(write_set(tmp_path, "coco"), change), "train")
    assert "annotation ids that occur twice, not used: 1 (id 1)" in noted(dataset)
    assert "boxes of images that are not listed, left out: 1" in noted(dataset)
    assert dataset.check().pixels.tolist() == [2, 1, 2]


def test_a_file_of_crowds_alone_is_noted(tmp_path):
    def change(content):
        for entry in content["annotations"]:
            entry["iscrowd"] = 1

    dataset = open_split(changed(write_set(tmp_path, "coco"), change), "train")
    assert "files of crowd regions only, nothing to train on" in noted(dataset)
    assert dataset.check().void == 5


def test_missing_images_may_be_skipped(tmp_path):
    root = write_set(tmp_path, "coco")
    (root / "train/c.png").unlink()
    assert "c.png" in refused(root)
    dataset = open_split(root, "train", skip_unreadable=True)
    assert dataset.pool.paths == ("a 1.png", "b.png")
    assert dataset.check().pixels.tolist() == [1, 1, 0]


def test_images_that_are_not_listed_are_noted(tmp_path):
    root = write_set(tmp_path, "coco")
    write_image(root / "train/extra.png", HEIGHT, WIDTH, 9)
    dataset = open_split(root, "train")
    assert "images that the file does not list, left out: 1 (extra.png)" in noted(dataset)


def test_coco_as_roboflow_writes_it(tmp_path):
    def change(content):
        content["categories"].insert(0, {"id": 0, "name": "cells", "supercategory": "none"})
        for entry in content["categories"][1:]:
            entry["supercategory"] = "cells"

    root = changed(write_set(tmp_path, "coco"), change)
    (root / "annotations/instances_train.json").rename(root / "train/_annotations.coco.json")
    (root / "annotations").rmdir()
    assert splits(root) == ["train"]
    dataset = open_split(root, "train")
    assert dataset.classes.names == NAMES
    assert "categories that group others" in noted(dataset)


def test_paths_of_another_machine_are_found_by_their_names(tmp_path):
    def change(content):
        content["images"][0]["file_name"] = "C:\\data\\train\\a 1.png"
        content["images"][2]["file_name"] = "/home/x/c.png"

    dataset = open_split(changed(write_set(tmp_path, "coco"), change), "train")
    assert dataset.pool.paths == ("a 1.png", "b.png", "c.png")


# YOLO


def line(root, text, name="a 1"):
    (root / f"labels/train/{name}.txt").write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 .5 .5 .1", "CLASS X Y WIDTH HEIGHT"),
        ("0 .5 .5 .1 .1 .9", "CLASS X Y WIDTH HEIGHT"),
        ("0 .5 .5 .1 nan", "numbers"),
        ("0 .5 .5 .1 x", "numbers"),
        ("0 30 20 10 10", "not pixels"),
        ("3 .5 .5 .1 .1", "from 0 to 2"),
        ("-1 .5 .5 .1 .1", "from 0 to 2"),
        ("0.5 .5 .5 .1 .1", "from 0 to 2"),
        ("cell .5 .5 .1 .1", "numbers"),
    ],
)
def test_bad_lines_are_refused(tmp_path, text, message):
    told = refused(line(write_set(tmp_path, "yolo"), f"0 .5 .5 .1 .1\n\n{text}\n"))
    assert message in told
    assert text in told


def test_polygons_are_taken_for_the_boxes_around_them(tmp_path):
    root = line(write_set(tmp_path, "yolo"), "1 0.1 0.2 0.5 0.1 0.4 0.8\n")
    dataset = open_split(root, "train")
    assert np.allclose(dataset.read_label(0).boxes, [[6, 4, 30, 32]])
    assert "polygons in place of boxes, taken for the boxes around them: 1" in noted(dataset)


def test_images_without_a_file_show_nothing(tmp_path):
    root = write_set(tmp_path, "yolo")
    (root / "labels/train/a 1.txt").unlink()
    (root / "labels/train/lost.txt").write_text("")
    dataset = open_split(root, "train")
    assert dataset.read_label(0).known == ((0, 0, WIDTH, HEIGHT),)
    assert "taken for images without objects: 1 (a 1.png)" in noted(dataset)
    assert "labels without an image, left out: 1 (lost.txt)" in noted(dataset)
    assert open_split(root, "train", missing_labels=True).read_label(0).known == ()
    for name in ("b", "c"):
        (root / f"labels/train/{name}.txt").unlink()
    assert "3 of 3 without" in refused(root)


@pytest.mark.parametrize("place", ["images/train", "train/images"])
def test_folders_without_a_configuration(tmp_path, place):
    root = write_set(tmp_path, "yolo")
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("\n".join(NAMES))
    if place == "train/images":
        (root / "train").mkdir()
        for kind in ("images", "labels"):
            (root / kind / "train").rename(root / "train" / kind)
            (root / kind).rmdir()
    assert is_dataset(root)
    assert splits(root) == ["train"]
    assert open_split(root, "train").check().pixels.tolist() == [2, 1, 2]


def config(root, **entries):
    file = root / "data.yaml"
    content = {**yaml.safe_load(file.read_text()), **entries}
    file.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return root


@pytest.mark.parametrize(
    "entries",
    [
        {"train": "../images/train"},
        {"path": "/home/x/set", "train": "images/train"},
        {"train": "C:\\sets\\blood\\images\\train"},
        {"train": ["images/train"]},
        {"train": "train.txt"},
        {"names": list(NAMES)},
        {"nc": None},
        {"train": None},
    ],
)
def test_ways_to_say_where_images_are(tmp_path, entries):
    root = config(write_set(tmp_path, "yolo"), **entries)
    lines = ["./images/train/a 1.png", "images/train/b.png", "/home/x/images/train/c.png"]
    (root / "train.txt").write_text("\n".join(lines))
    dataset = open_split(root, "train")
    assert dataset.check().pixels.tolist() == [2, 1, 2]
    assert dataset.classes.names == NAMES
    assert len(open_split(root / "data.yaml", "train")) == 3


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"train": "nowhere"}, "is not there"),
        ({"train": 3}, "a folder, or a list of them"),
        ({"names": {0: "a", 2: "b", 3: "c"}}, "numbers from 0 to 2"),
        ({"names": "abc"}, "a list of names"),
        ({"names": ["a", "a"], "nc": 2}, "more than once"),
        ({"nc": 5}, "5 as nc says"),
        ({"names": None}, "none with `names`"),
    ],
)
def test_bad_configurations_are_refused(tmp_path, entries, message):
    assert message in refused(config(write_set(tmp_path, "yolo"), **entries))


@pytest.mark.parametrize("text", ["names: [", "!!python/object/apply:os.system [ls]", "- 3", ""])
def test_what_is_no_configuration_is_refused(tmp_path, text):
    root = write_set(tmp_path, "yolo")
    (root / "data.yaml").write_text(text)
    assert "not as a YOLO data set has it" in refused(root)


# Tables


@pytest.mark.parametrize(
    "header",
    [
        "path,x0,y0,x1,y1,class",
        "filename,xmin,ymin,xmax,ymax,label",
        "image_path;x1;y1;x2;y2;class_name",
        "Path\tLeft\tTop\tRight\tBottom\tCategory",
        "path,x,y,width,height,class",
        "image,bbox_x,bbox_y,bbox_w,bbox_h,class",
    ],
)
def test_names_of_columns(tmp_path, header):
    write_image(tmp_path / "a.png", HEIGHT, WIDTH, 0)
    write_image(tmp_path / "b.png", HEIGHT, WIDTH, 1)
    separator = next(c for c in ",;\t" if c in header)
    far = ("10", "20") if "w" in header.split(separator)[3] else ("11", "22")
    rows = [["a.png", "1", "2", *far, "cell"], ["b.png", *[""] * 5]]
    lines = [header, *(separator.join(row) for row in rows)]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    dataset = open_split(tmp_path, "train")
    assert as_rows(dataset.read_label(0)) == [([1, 2, 11, 22], 0, False)]
    assert dataset.read_label(1).known == ((0, 0, WIDTH, HEIGHT),)


def test_a_column_of_splits_and_sizes(tmp_path):
    for seed in range(2):
        write_image(tmp_path / f"{seed}.png", HEIGHT, WIDTH, seed)
    header = "filename,width,height,class,xmin,ymin,xmax,ymax,set\n"
    rows = "0.png,60,40,cell,1,2,11,22,train\n1.png,{},40,cell,1,2,11,22,val\n"
    (tmp_path / "boxes.csv").write_text(header + rows.format(60))
    assert splits(tmp_path) == splits(tmp_path / "boxes.csv") == ["train", "val"]
    assert open_split(tmp_path, "val").pool.paths == ("1.png",)
    (tmp_path / "boxes.csv").write_text(header + rows.format(600))
    assert "600 x 40" in refused(tmp_path, "val")


def test_no_row_of_names(tmp_path):
    write_image(tmp_path / "a.png", HEIGHT, WIDTH, 0)
    (tmp_path / "train.csv").write_text("a.png,1,2,11,22,cell\n")
    assert as_rows(open_split(tmp_path, "train").read_label(0)) == [([1, 2, 11, 22], 0, False)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.png,1,2,11,x,cell", "line 2 is no box"),
        ("a.png,1,2,11,,cell", "line 2 is no box"),
        ("a.png,1,2,11,inf,cell", "line 2 is no box"),
        ("a.png,1,2,11,22,", "line 2 is no box"),
        (",1,2,11,22,cell", "line 2 has no path"),
        ("", "lists no box"),
        ("a.png,,,,,", "classes cannot be told"),
        ("a.png,1,2,3,4,1\na.png,1,2,3,5,7", "classes cannot be told"),
        ("nowhere.png,1,2,11,22,cell", "nowhere.png"),
        ("../a.png,1,2,11,22,cell", "leads out"),
    ],
)
def test_bad_tables_are_refused(tmp_path, rows, message):
    write_image(tmp_path / "a.png", HEIGHT, WIDTH, 0)
    (tmp_path / "train.csv").write_text(f"path,x0,y0,x1,y1,class\n{rows}\n")
    assert message in refused(tmp_path)


def test_a_row_that_is_no_text_is_told_by_its_line(tmp_path):
    (tmp_path / "train.csv").write_bytes(b"path,x0,y0,x1,y1,class\na.png,1,2,11,22,c\xe9ll\n")
    assert "line 2 cannot be read" in refused(tmp_path)


def test_an_image_in_two_splits_is_refused(tmp_path):
    write_image(tmp_path / "a.png", HEIGHT, WIDTH, 0)
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text("path,x0,y0,x1,y1,class\na.png,1,2,11,22,cell\n")
    assert "in train and in val" in refused(tmp_path)


def test_unknown_names_and_listed_numbers(tmp_path):
    write_image(tmp_path / "a.png", HEIGHT, WIDTH, 0)
    (tmp_path / "classes.txt").write_text("3 cell\n7 rod\n")
    (tmp_path / "train.csv").write_text("path,x0,y0,x1,y1,class\na.png,1,2,11,22,7\n")
    dataset = open_split(tmp_path, "train")
    assert (dataset.classes.names, dataset.read_label(0).classes.tolist()) == (("cell", "rod"), [1])
    (tmp_path / "train.csv").write_text("path,x0,y0,x1,y1,class\na.png,1,2,11,22,5\n")
    assert "a class that is not listed" in refused(tmp_path)
