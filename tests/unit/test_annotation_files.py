"""Formats of annotation that are files: what is written comes back, pixel for pixel."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from segal.annotation.answers import Answer, DrawnBox
from segal.annotation.formats import FORMATS
from segal.annotation.formats.base import WriteOptions
from segal.annotation.formats.coco import counted, unpacked
from segal.annotation.formats.shared.mistakes import Mistake
from segal.annotation.handout import as_one
from segal.errors import SegalError
from tests.made_returns import (
    COLOURS,
    NAMES,
    OPTIONS,
    VOID,
    WORK,
    boxes,
    composed,
    drawn,
    edited,
    errors_of,
    handout,
    labels,
    read,
    written,
)

_DRAWN = ("segmentation", "detection")
MASKS = ("cityscapes", "coco", "fiftyone", "folder", "labelme", "panoptic", "voc")


@pytest.mark.parametrize("mode", ["context", "crop"])
@pytest.mark.parametrize("kind", MASKS)
def test_every_pixel_comes_back(tmp_path, kind, mode):
    made = labels()
    handed = handout(made, kind, mode, model="0" * 8)
    answers = read(written(tmp_path, kind, drawn(made), handed), handed)
    assert answers.keys() == {task.key for task in handed.tasks}
    for task in handed.tasks:
        x0, y0, x1, y1 = task.region
        label, outside = composed(answers[task.key], task)
        np.testing.assert_array_equal(label, made[task.image][y0:y1, x0:x1])
        assert outside == 0
        answer = answers[task.key]
        assert answer.layers and not any(layer.is_drawn for layer in answer.layers)
        assert not answer.lossy and not answer.notes


@pytest.mark.parametrize("kind", MASKS)
def test_without_what_was_written_beside_it_drafts_are_taken_for_drawn_and_told(tmp_path, kind):
    made = labels(1)
    handed = handout(made, kind, model="0" * 8)
    path = written(tmp_path, kind, drawn(made), handed)
    (path / "regions.json").unlink()
    for answer in read(path, handed).values():
        assert all(layer.is_drawn for layer in answer.layers)
        assert "regions.json" in " ".join(answer.notes)


@pytest.mark.parametrize("kind", MASKS)
def test_tasks_that_nobody_has_worked_on_are_left_out_unless_they_are_said_to_be_done(
    tmp_path, kind
):
    made = labels(2)
    handed = handout(made, kind)
    chosen = handed.tasks[1]
    work = drawn(made)
    path = written(
        tmp_path, kind, lambda task: work(task) if task.key == chosen.key else None, handed
    )
    assert read(path, handed).keys() == {chosen.key}
    (path / "done.txt").write_text(f"{handed.tasks[2].key}\n")
    answers = read(path, handed)
    assert answers.keys() == {chosen.key, handed.tasks[2].key}
    assert not answers[handed.tasks[2].key].layers


@pytest.mark.parametrize("kind", MASKS)
def test_each_annotator_has_a_folder_and_is_known_by_it(tmp_path, kind):
    made = labels(3)
    handed = handout(made, kind, annotators=("Ada, Countess", "bo"))
    FORMATS[kind].check(handed)
    path = written(tmp_path, kind, drawn(made), handed)
    answers = list(FORMATS[kind].read(path, handed))
    assert sorted({one.annotator for one in answers}) == ["Ada, Countess", "bo"]
    assert len(answers) == len(handed.tasks)
    one = list(FORMATS[kind].read(path / "bo", handed))
    assert {answer.annotator for answer in one} == {"bo"}
    assert {answer.key for answer in one} == {task.key for task in handed.tasks}


@pytest.mark.parametrize("kind", MASKS)
def test_what_is_painted_in_no_region_is_there_once(tmp_path, kind):
    made = labels(4)
    whole = handout(made, kind, step=1000)  # each image is one region
    handed = handout(made, kind)
    answers = read(written(tmp_path, kind, drawn(made), whole), handed)
    for image, label in made.items():
        tasks = [task for task in handed.tasks if task.image == image]
        outside = label.copy()
        counts = 0
        for task in tasks:
            x0, y0, x1, y1 = task.region
            np.testing.assert_array_equal(composed(answers[task.key], task)[0], label[y0:y1, x0:x1])
            outside[y0:y1, x0:x1] = VOID
            counts += composed(answers[task.key], task)[1]
        assert counts == (outside != VOID).sum() > 0


@pytest.mark.parametrize("kind", MASKS)
def test_labels_of_another_size_name_task_image_region_and_remedy(tmp_path, kind):
    made = labels(5, sizes=((37, 53),))
    turned = {image: label.T.copy() for image, label in made.items()}
    path = written(tmp_path, kind, drawn(turned), handout(turned, kind))
    handed = handout(made, kind)
    found = errors_of(path, handed)
    assert len(found) == len(handed.tasks)
    for task, error in zip(handed.tasks, found, strict=True):
        x0, y0, x1, y1 = task.region
        text = str(error)
        assert task.key in text and task.image in text
        assert f"x {x0}, y {y0}, width {x1 - x0}, height {y1 - y0}:" in text
        assert "swapped" in text and error.remedy and "width 53, height 37" in text


@pytest.mark.parametrize("kind", MASKS)
def test_images_of_another_run_are_named(tmp_path, kind):
    made = labels(6)
    other = {image.replace("town", "elsewhere"): label for image, label in made.items()}
    path = written(tmp_path, kind, drawn(other), handout(other, kind))
    found = list(FORMATS[kind].read(path, handout(made, kind)))
    assert found and all(isinstance(one, SegalError) for one in found)
    assert "elsewhere/" in str(found[0]) and "town/" in str(found[0])


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("names", [("road", "road"), (" road", "sky"), ("", "sky"), ("a\nb", "c")])
def test_names_that_are_not_told_apart_or_kept_are_refused(kind, names):
    made = labels(7)
    with pytest.raises(SegalError, match=r"classes that|names that"):
        FORMATS[kind].check(handout(made, kind, names=names))


def test_annotators_whose_names_lead_out_of_the_folder_are_refused():
    with pytest.raises(SegalError, match="annotators"):
        FORMATS["coco"].check(handout(labels(), "coco", annotators=("../x",)))
    with pytest.raises(SegalError, match="annotators"):
        FORMATS["folder"].check(handout(labels(), "folder", annotators=("..",)))


# What holds no answers


QUESTIONS = [(kind, question) for kind, form in FORMATS.items() for question in form.questions]


def refused(kind, path, handed):
    """The one error that is all that a path comes to."""
    try:
        (error,) = FORMATS[kind].read(path, handed)
    except SegalError as raised:
        error = raised
    assert isinstance(error, SegalError)
    assert str(path) in str(error) and error.remedy
    return error


@pytest.mark.parametrize(("kind", "question"), QUESTIONS)
def test_what_holds_no_answers_is_refused(tmp_path, kind, question):
    handed = handout(labels(), kind, question=question)
    refused(kind, tmp_path, handed)
    (tmp_path / "thesis.tex").write_text("mine")
    refused(kind, tmp_path, handed)
    refused(kind, tmp_path / "thesis.tex", handed)
    refused(kind, tmp_path / "gone", handed)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("label-studio", "[]"),
        ("cvat", "<annotations></annotations>"),
        ("coco", '{"images": [], "annotations": [], "categories": []}'),
        ("panoptic", '{"images": [], "annotations": [], "categories": []}'),
    ],
)
def test_exports_without_a_task_are_refused(tmp_path, kind, text):
    file = tmp_path / "export.json"
    file.write_text(text)
    assert "no answers" in str(refused(kind, file, handout(labels(), kind)))


def test_labels_of_fiftyone_without_an_image_are_refused(tmp_path):
    file = tmp_path / "labels.json"
    file.write_text('{"classes": ["car"], "labels": {}}')
    handed = handout(labels(), "fiftyone", question="detection", names=("car",))
    assert "no answers" in str(refused("fiftyone", file, handed))


@pytest.mark.parametrize(("kind", "question"), QUESTIONS)
def test_a_handout_that_nobody_has_worked_on_is_no_mistake(tmp_path, kind, question):
    """But for Label Studio, whose tasks it does not export as they were imported."""
    step = 16 if question in _DRAWN else 1000
    handed = handout(labels(), kind, question=question, step=step)
    FORMATS[kind].write(tmp_path, handed, None, OPTIONS)
    if kind == "label-studio":
        content = json.loads((tmp_path / "tasks.json").read_text())
        (tmp_path / "tasks.json").write_text(
            json.dumps([{**task, "annotations": []} for task in content])
        )
    assert list(FORMATS[kind].read(tmp_path, handed)) == []


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("of", FORMATS)
def test_an_export_of_another_format_is_never_taken_for_one_of_nothing(tmp_path, kind, of):
    made = labels(17)
    if of == kind:
        return
    if of in MASKS:
        written(tmp_path, of, drawn(made), handout(made, of))
    else:
        FORMATS[of].write(tmp_path, handout(made, of), drawn(made), OPTIONS)
    try:
        found = list(FORMATS[kind].read(tmp_path, handout(made, kind)))
    except SegalError:
        return
    assert found


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "cvat"])
@pytest.mark.parametrize("form", ["zip", "tar", "gztar"])
def test_archives_are_to_be_unpacked(tmp_path, kind, form):
    made = labels(18)
    handed = handout(made, kind)
    FORMATS[kind].write(tmp_path / "x", handed, drawn(made), OPTIONS) if kind in MASKS else None
    (tmp_path / "x").mkdir(exist_ok=True)
    (tmp_path / "x" / "more.json").write_text("[]")
    archive = shutil.make_archive(str(tmp_path / "back"), form, tmp_path / "x")
    assert "unpack it" in str(refused(kind, Path(archive), handed))


def answer_files(path, kind, question):
    """The files in which answers are."""
    where = {
        **{(kind, "segmentation"): (WORK.get(kind, "."), "*.png") for kind in WORK},
        ("voc", "detection"): ("Annotations", "*.xml"),
    }.get((kind, question), (".", "*.json"))
    return [one for one in sorted((path / where[0]).rglob(where[1])) if one.name != "regions.json"]


@pytest.mark.parametrize(
    ("kind", "question"),
    [(kind, question) for kind, question in QUESTIONS if kind in MASKS and question in _DRAWN],
)
def test_of_a_file_that_file_alone_is_read(tmp_path, kind, question):
    """Of each image by itself, with the other image's beside it, and below."""
    names = NAMES if question == "segmentation" else ("car", "bus")
    made = labels(19)
    work = drawn(made) if question == "segmentation" else boxes(made, names)
    handed = handout(made, kind, question=question, names=names)
    whole = tmp_path / "whole"
    whole.mkdir()
    if question == "segmentation":
        written(whole, kind, work, handed)
    else:
        FORMATS[kind].write(whole, handed, work, OPTIONS)
    wanted = read(whole, handed)
    of_one = {task.key: task.image for task in handed.tasks}
    if len(answer_files(whole, kind, question)) == 1:  # one for all images: two of them
        folders = []
        for image, label in made.items():
            folders.append(whole / image.replace("/", "-"))
            alone = replace(handed, tasks=tuple(t for t in handed.tasks if t.image == image))
            folders[-1].mkdir()
            if question == "segmentation":
                written(folders[-1], kind, drawn({image: label}), alone)
            else:
                FORMATS[kind].write(folders[-1], alone, work, OPTIONS)
        files = [one for folder in folders for one in answer_files(folder, kind, question)]
    else:
        files = answer_files(whole, kind, question)
    (files[0].parent / "done.txt").write_text("".join(f"{key}\n" for key in of_one))
    found = {}
    for file in files:
        answers = read(file, handed)
        assert len({of_one[key] for key in answers}) == 1, file
        assert not found.keys() & answers.keys()
        found |= answers
    assert found.keys() >= wanted.keys()


# Answers to several handouts

WAYS = (("context", 0), ("crop", 3), ("crop", 7))
"""Mode and pad of handouts, from the first to the last."""


@pytest.mark.parametrize(
    ("kind", "question"),
    [(kind, question) for kind, question in QUESTIONS if kind in MASKS and question in _DRAWN],
)
@pytest.mark.parametrize("late", range(len(WAYS)))
def test_late_answers_are_read_in_the_frame_in_which_they_were_handed_out(
    tmp_path, kind, question, late
):
    names = NAMES if question == "segmentation" else ("car", "bus")
    made = labels(20)
    work = drawn(made) if question == "segmentation" else boxes(made, names)
    handed = [
        handout(made, kind, mode, question, names, model="0" * 8, pad=pad) for mode, pad in WAYS
    ]
    every = as_one(handed[::-1])
    if question == "segmentation":
        written(tmp_path, kind, work, handed[late])
    else:
        FORMATS[kind].write(tmp_path, handed[late], work, OPTIONS)
    if (kind, question) == ("fiftyone", "detection") and WAYS[late][0] == "crop":
        found = errors_of(tmp_path, every)  # boxes are shares of a size that it does not state
        assert found and all("--handout" in str(error) for error in found)
        return
    wanted, got = read(tmp_path, handed[late]), read(tmp_path, every)
    assert got.keys() == wanted.keys() and got
    for task in handed[late].tasks:
        if task.key not in got:
            continue
        answer = got[task.key]
        assert answer.frame == task.frame
        assert answer.boxes == wanted[task.key].boxes
        np.testing.assert_array_equal(
            composed(answer, task, names)[0], composed(wanted[task.key], task, names)[0]
        )


@pytest.mark.parametrize("kind", MASKS)
def test_answers_of_another_size_than_any_handout_s_name_the_latest(tmp_path, kind):
    made = labels(21, sizes=((37, 53),))
    crops = [handout(made, kind, "crop", pad=pad) for pad in (3, 7)]
    written(tmp_path, kind, drawn(made), handout(made, kind, "crop", pad=5))
    found = errors_of(tmp_path, as_one(crops[::-1]))
    assert len(found) == len(crops[0].tasks)
    for task, error in zip(crops[1].tasks, found, strict=True):
        height, width = task.frame_size
        assert task.key in str(error) and f"width {width}, height {height}" in str(error)


@pytest.mark.parametrize("kind", MASKS)
def test_answers_are_found_under_the_names_that_images_had(tmp_path, kind):
    made = labels(22)
    before = handout(made, kind)
    moved = [replace(task, file=f"later/{Path(task.file).name}") for task in before.tasks]
    every = as_one([replace(before, tasks=tuple(moved)), before])
    written(tmp_path, kind, drawn(made), before)
    assert read(tmp_path, every).keys() == {task.key for task in before.tasks}
    swapped = [replace(task, image=f"other/{task.image}", key=task.key[::-1]) for task in moved]
    every = as_one([replace(before, tasks=(*swapped, *moved))])
    with pytest.raises(SegalError, match="--handout"):
        list(FORMATS[kind].read(tmp_path, every))


# COCO


def coco(tmp_path, made, **options):
    handed = handout(made, "coco", **options)
    path = written(tmp_path, "coco", drawn(made), handed)
    return handed, path / "annotations" / "instances_default.json"


def test_coco_is_written_as_pycocotools_reads_it(tmp_path):
    made = labels(8)
    handed, file = coco(tmp_path, made)
    content = json.loads(file.read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    files = {one["id"]: one for one in content["images"]}
    painted = {image: np.full(label.shape, VOID, np.uint8) for image, label in made.items()}
    for one in content["annotations"]:
        mask = coco_mask.decode(one["segmentation"]).astype(bool)
        rows, columns = np.nonzero(mask)
        size = [columns.max() - columns.min() + 1, rows.max() - rows.min() + 1]
        assert one["bbox"] == [columns.min(), rows.min(), *size]
        assert one["area"] == mask.sum() and one["iscrowd"] == 0
        image = files[one["image_id"]]
        assert one["segmentation"]["size"] == [image["height"], image["width"]]
        painted[image["file_name"]][mask] = NAMES.index(names[one["category_id"]])
    for task in handed.tasks:
        x0, y0, x1, y1 = task.region
        ours = painted[task.image][y0:y1, x0:x1]
        np.testing.assert_array_equal(ours, made[task.image][y0:y1, x0:x1])
    assert len({one["id"] for one in content["annotations"]}) == len(content["annotations"])


def test_coco_of_other_tools_is_taken(tmp_path):
    """Gaps in ids, crowds, lists of run lengths, wrong boxes, ids twice, paths of another place."""
    made = labels(9)
    handed, file = coco(tmp_path, made)

    def change(content):
        for one in content["categories"]:
            one["id"] = 7 * one["id"] + 3
        content["categories"].reverse()
        for one in content["images"]:
            one["file_name"] = f"C:\\data\\{one['file_name']}".replace("/", "\\")
        for one in content["annotations"]:
            mask = coco_mask.decode(one["segmentation"])
            flat = mask.flatten(order="F")
            edges = np.flatnonzero(np.diff(np.r_[0, flat, 2]))
            counts = np.diff(np.r_[0, edges]).tolist()
            assert sum(counts) == flat.size
            one["segmentation"]["counts"] = counts
            one["category_id"] = 7 * one["category_id"] + 3
            one |= {"iscrowd": 1, "bbox": [0, 0, 1, 1], "area": -5, "id": 4}

    edited(file, change)
    answers = read(file, handed)
    for task in handed.tasks:
        x0, y0, x1, y1 = task.region
        label, outside = composed(answers[task.key], task)
        np.testing.assert_array_equal(label, made[task.image][y0:y1, x0:x1])
        assert outside == 0 and "occur twice" in answers[task.key].notes[0]


def test_run_lengths_as_text_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (7, 5), (1, 300), (200, 1), (91, 333)]:
        masks = [rng.random((height, width)) < share for share in (0, 0.02, 0.5, 0, 0.99, 1, 0)]
        said = [
            coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
            for mask in masks
        ]
        for layer, mask in zip(
            unpacked(list(enumerate(said)), (height, width)), masks, strict=True
        ):
            whole = np.zeros_like(mask)
            if layer is not None:
                (x, y), (h, w) = layer.corner, layer.mask.shape
                whole[y : y + h, x : x + w] = layer.mask
            np.testing.assert_array_equal(whole, mask)


@pytest.mark.parametrize(
    "counts",
    [
        [10],
        [30, 6],
        [1, -1, 35],
        [1.0, 34],
        [True, 34],
        ["1", 34],
        [2**70],
        [35, float("nan")],
        None,
        5,
        {},
        "",
        "é",
        "\x00",
        "~" * 40,
        "R1" * 20,
        "P",
        coco_mask.encode(np.ones((5, 6), np.uint8, order="F"))["counts"].decode(),
    ],
)
def test_run_lengths_that_are_not_of_the_image_are_refused(counts):
    with pytest.raises(Mistake, match="run lengths that are not of this image") as error:
        list(unpacked([("one", [35]), ("two", counts), ("three", "S1")], (5, 7)))
    assert error.value.source == "two"
    with pytest.raises(Mistake, match="run lengths"):
        counted(counts, (5, 7), "here")


def test_coco_polygons_are_filled_by_pycocotools_and_told_to_be_lossy(tmp_path):
    made = labels(10, sizes=((60, 80),))
    handed, file = coco(tmp_path, made, step=1000)
    polygons = [[10, 10, 30, 10, 30, 25, 10, 25], [40.5, 3.25, 77, 9.5, 50, 30.75]]

    def change(content):
        content["annotations"] = [
            {"id": 1, "image_id": 1, "category_id": 3, "segmentation": polygons}
        ]

    edited(file, change)
    (answer,) = read(file, handed).values()
    wanted = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 60, 80)))
    np.testing.assert_array_equal(composed(answer, handed.tasks[0])[0] == 2, wanted.astype(bool))
    assert "pycocotools" in answer.lossy


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"segmentation": [[1, 2, 3, 4]]}, "outline"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "outline"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "outline"),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e9]]}, "outline"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, "outline"),
        ({"segmentation": []}, "without a mask"),
        ({"segmentation": None}, "without a mask"),
        ({"segmentation": {"counts": "PP", "size": [53, 37]}}, "swapped"),
        ({"segmentation": {"counts": [5, 6], "size": [37, 53]}}, "run lengths"),
        ({"segmentation": {"counts": [5, 6]}}, "another size"),
        ({"category_id": 99}, "of no category"),
        ({"category_id": [1]}, "of no category"),
    ],
)
def test_what_is_wrong_with_an_annotation_of_coco_names_the_task(tmp_path, said, problem):
    handed, file = coco(tmp_path, labels(11))

    def change(content):
        content["annotations"][0] |= said

    edited(file, change)
    found = errors_of(file, handed)
    assert {problem in str(one) for one in found} == {True}
    assert handed.tasks[0].key in str(found[0]) and "annotation 1" in str(found[0])


def test_coco_files_that_are_wrong_as_a_whole_are_refused(tmp_path):
    handed, file = coco(tmp_path, labels(12))
    text = file.read_text()
    for change, problem in [
        (lambda c: c["categories"].append({"id": 1, "name": "twice"}), "category"),
        (lambda c: c["categories"].append({"id": 90, "name": "road"}), "category"),
        (lambda c: c["images"].append(c["images"][0]), "image"),
        (lambda c: c.pop("annotations"), "no instances"),
    ]:
        edited(file, change)
        with pytest.raises(SegalError, match=problem):
            list(FORMATS["coco"].read(file, handed))
        file.write_text(text)
    for data in (
        text[: len(text) // 2],
        "[]",
        "",
        "{" * 10**5,
        "1" * 10**5,
        "\ud800".encode("utf-16", "surrogatepass").decode("latin1"),
    ):
        file.write_text(data)
        with pytest.raises(SegalError):
            list(FORMATS["coco"].read(file, handed))


def test_coco_annotations_of_unlisted_images_and_images_twice_are_told(tmp_path):
    handed, file = coco(tmp_path, labels(13))

    def change(content):
        content["annotations"][0]["image_id"] = 77
        content["images"][1]["file_name"] = f"/data/{content['images'][0]['file_name']}"

    edited(file, change)
    text = "\n".join(map(str, errors_of(file, handed)))
    assert "does not list" in text and "listed twice" in text


# Boxes


BOXED = ("coco", "fiftyone", "labelme", "voc")


@pytest.mark.parametrize("mode", ["context", "crop"])
@pytest.mark.parametrize("kind", BOXED)
def test_boxes_come_back_exactly(tmp_path, kind, mode):
    made = labels(14, sizes=((370, 531), (257, 333)))
    names = ("car", "Straßenbahn, blue", "a & b <c>")
    handed = handout(made, kind, mode, "detection", names, model="0" * 8, step=128)
    work = boxes(made, names)
    FORMATS[kind].check(handed)
    FORMATS[kind].write(tmp_path, handed, work, OPTIONS)
    answers = read(tmp_path, handed)
    with_boxes = [task for task in handed.tasks if work(task).boxes]
    assert answers.keys() == {task.key for task in with_boxes}
    for task in with_boxes:
        wanted, got = work(task).boxes, answers[task.key].boxes
        assert [one.name for one in got] == [one.name for one in wanted]
        np.testing.assert_allclose(
            [one.box for one in got], [one.box for one in wanted], rtol=0, atol=1e-9
        )
        assert not any(one.is_drawn for one in got)


@pytest.mark.parametrize("kind", BOXED)
def test_boxes_that_leave_the_image_are_refused_and_a_moved_one_is_drawn(tmp_path, kind):
    made = labels(15, sizes=((64, 80),))
    handed = handout(made, kind, "context", "detection", ("car",), model="0" * 8, step=64)
    box = {task.key: (60.5 - task.rank, 20.0, 70.5 - task.rank, 30.0) for task in handed.tasks}

    def draft(task):
        return Answer(task.key, "network", boxes=[DrawnBox("car", box[task.key])])

    FORMATS[kind].write(tmp_path, handed, draft, OPTIONS)
    file = next(
        path
        for path in sorted([*tmp_path.rglob("*.json"), *tmp_path.rglob("*.xml")])
        if "regions" not in path.name
    )
    text = file.read_text()
    first = "69.5" if kind in {"voc", "labelme"} else None
    if first is None:
        content = json.loads(text)
        if kind == "coco":
            content["annotations"][0]["bbox"][2] += 1
        else:
            next(iter(content["labels"].values()))[0]["bounding_box"][2] += 1 / 80
        moved, outside = json.dumps(content), json.dumps(content).replace("20.0", "200.0")
        outside = outside.replace(str(20 / 64), "1.5")
    else:
        moved, outside = text.replace(first, "70.5"), text.replace(first, "90.5")
    file.write_text(moved)
    answers = read(tmp_path, handed)
    assert [one.is_drawn for answer in answers.values() for one in answer.boxes].count(True) == 1
    file.write_text(outside)
    found = errors_of(tmp_path, handed)
    assert found and "leaves the image" in str(found[0])


def test_an_image_that_someone_saved_without_boxes_shows_none(tmp_path):
    made = labels(16)
    names = ("car",)
    handed = handout(made, "voc", "context", "detection", names)
    FORMATS["voc"].write(tmp_path, handed, None, OPTIONS)
    assert read(tmp_path, handed) == {}
    image = handed.tasks[0].file
    file = (tmp_path / "Annotations" / image).with_suffix(".xml")
    file.parent.mkdir(parents=True)
    file.write_text("<annotation><size><width>0</width><height>0</height></size></annotation>")
    answers = read(tmp_path, handed)
    assert answers.keys() == {task.key for task in handed.tasks if task.image == image}
    assert all(not answer.boxes and answer.notes for answer in answers.values())
    file.write_text('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>')
    assert "DTD" in str(errors_of(tmp_path, handed)[0])


@pytest.mark.parametrize("kind", MASKS)
def test_void_on_purpose_is_told_from_what_nobody_painted(tmp_path, kind):
    """As the last of the labels; in Cityscapes, any official label that is no class."""
    names = (*NAMES, "void")
    made = labels(50)
    handed = handout(made, kind, names=names, void=True)
    options = WriteOptions("", (*COLOURS, (255, 255, 254)))
    FORMATS[kind].check(handed)
    work = drawn({image: np.minimum(label, 19) for image, label in made.items()}, names)
    kept = drawn(made)
    FORMATS[kind].write(tmp_path, handed, kept if kind == "cityscapes" else work, options)
    for drafts in tmp_path.rglob("drafts"):
        shutil.copytree(drafts, tmp_path / WORK[kind], dirs_exist_ok=True)
    for image in made if kind == "cityscapes" else ():
        file = tmp_path / "gtFine" / image.replace("_leftImg8bit.jpg", "_gtFine_labelIds.png")
        ids = np.array(Image.open(file))
        assert (ids == 0).any()
        Image.fromarray(np.where(ids == 0, 4, ids).astype(np.uint8)).save(file)
    answers = read(tmp_path, handed)
    for task in handed.tasks:
        x0, y0, x1, y1 = task.region
        label, _ = composed(answers[task.key], task, names)
        np.testing.assert_array_equal(label, np.minimum(made[task.image], 19)[y0:y1, x0:x1])


def test_void_on_purpose_has_a_colour(tmp_path):
    names, made = ("road", "sky", "void"), labels(51, classes=3)
    handed = handout(made, "folder", names=names, void=True)
    options = WriteOptions("", ((9, 9, 9), (0, 0, 0), (1, 2, 3)))
    FORMATS["folder"].write(tmp_path, handed, None, options)
    table = np.full((256, 3), 255, np.uint8)
    table[:3] = options.colours
    for image, label in made.items():
        file = (tmp_path / "labels" / image).with_suffix(".png")
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(table[label]).save(file)
    for task in handed.tasks:
        x0, y0, x1, y1 = task.region
        label, _ = composed(read(tmp_path, handed)[task.key], task, names)
        np.testing.assert_array_equal(label, made[task.image][y0:y1, x0:x1])
