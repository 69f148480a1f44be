"""What is particular to each format of annotation that is files."""

import base64
import io
import json
import math

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from segal.annotation.answers import Answer, Layer
from segal.annotation.formats import FORMATS
from segal.annotation.formats.base import WriteOptions
from segal.annotation.formats.cityscapes import IDS
from segal.annotation.formats.labelme import bilevel_png
from segal.annotation.formats.shared.frames import draft_layers
from segal.annotation.questions.painting import Painting
from segal.data.cityscapes import CLASSES
from segal.data.datasets import open_dataset
from segal.data.voc import palette
from segal.errors import SegalError
from tests.made_returns import (
    COLOURS,
    NAMES,
    OPTIONS,
    VOID,
    composed,
    drawn,
    edited,
    errors_of,
    handout,
    labels,
    read,
    written,
)


def region_of(label, task):
    x0, y0, x1, y1 = task.region
    return label[y0:y1, x0:x1]


def same(answers, handed, made, names=NAMES):
    assert answers.keys() == {task.key for task in handed.tasks}
    for task in handed.tasks:
        label, _ = composed(answers[task.key], task, names)
        np.testing.assert_array_equal(label, region_of(made[task.image], task))


# Folders of PNGs


def start(tmp_path, kind="folder", seed=20, **options):
    made = labels(seed)
    handed = handout(made, kind, **options)
    FORMATS[kind].write(tmp_path, handed, None, OPTIONS)
    return made, handed, tmp_path / ("SegmentationClass" if kind == "voc" else "labels")


def save(folder, image, pixels, suffix=".png"):
    path = (folder / image).with_suffix(suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def coloured(label, colours=COLOURS, void=(0, 0, 0)):
    table = np.full((256, 3), void, np.uint8)
    table[: len(colours)] = colours
    return table[label]


@pytest.mark.parametrize("kind", ["folder", "voc"])
@pytest.mark.parametrize("form", ["grey", "rgb", "rgba", "bmp", "tif", "grey as rgb"])
def test_masks_of_any_form_are_read(tmp_path, kind, form):
    made, handed, folder = start(tmp_path, kind)
    for image, label in made.items():
        if form == "rgba":
            opaque = np.full((*label.shape, 1), 255, np.uint8)
            save(folder, image, np.concatenate([coloured(label), opaque], -1))
        elif form == "rgb":
            save(folder, image, coloured(label))
        elif form == "grey as rgb":
            (tmp_path / "colours.txt").unlink(missing_ok=True)
            save(folder, image, np.stack([label] * 3, -1))
        else:
            save(folder, image, label, f".{form}" if form != "grey" else ".png")
    same(read(tmp_path, handed), handed, made)
    same(read(folder, handed), handed, made)


def test_masks_of_single_tasks_are_of_the_frame_or_the_region(tmp_path):
    made, handed, folder = start(tmp_path)
    for number, task in enumerate(handed.tasks):
        label = made[task.image].copy()
        x0, y0, x1, y1 = task.region
        if number % 2:
            save(folder, f"{task.key}.x", label[y0:y1, x0:x1])
        else:
            label[:y0], label[y1:], label[:, :x0], label[:, x1:] = VOID, VOID, VOID, VOID
            save(folder, f"{task.key}.x", label)
    same(read(tmp_path, handed), handed, made)


def test_two_masks_of_one_image_are_not_chosen_between(tmp_path):
    made, handed, folder = start(tmp_path)
    image = handed.tasks[0].image
    save(folder, image, made[image])
    save(folder, image, made[image], ".bmp")
    found = errors_of(tmp_path, handed)
    assert len(found) == sum(task.image == image for task in handed.tasks)
    assert "two labels" in str(found[0]) and ".bmp" in str(found[0])


def test_smoothed_colours_and_values_of_no_class_are_counted(tmp_path):
    made, handed, folder = start(tmp_path)
    first, second = made
    pixels = coloured(made[first])
    pixels[3, 4], pixels[5, 5], pixels[5, 6] = (1, 2, 3), (9, 9, 9), (9, 9, 9)
    save(folder, first, pixels)
    values = made[second].copy()
    values[0, 0] = 77
    save(folder, second, values)
    text = "\n".join(map(str, errors_of(tmp_path, handed)))
    assert "(9, 9, 9) (2 pixels)" in text and "77 (1 pixels)" in text
    assert handed.tasks[0].key in text


def test_lists_that_came_back_say_what_values_and_colours_mean(tmp_path):
    names = ("sky", "road", "car")
    made = labels(21, classes=3)
    handed = handout(made, "folder", names=names)
    (tmp_path / "classes.txt").write_text("30 car\n20 road\n7 sky\n0 unlabelled\n")
    values = np.zeros(256, np.uint8)
    values[:3] = 7, 20, 30
    for image, label in made.items():
        save(tmp_path, image, np.where(label == VOID, 255, values[label]).astype(np.uint8))
    same(read(tmp_path, handed), handed, made, names)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"
        "car:1,1,1::\nroad:9,0,0::\nsky:5,5,0::\n"
    )
    for image, label in made.items():
        save(tmp_path, image, coloured(label, [(5, 5, 0), (9, 0, 0), (1, 1, 1)]))
    same(read(tmp_path, handed), handed, made, names)


def test_what_is_written_is_a_data_set_to_segal_itself(tmp_path):
    made = labels(22)
    handed = handout(made, "folder", step=1000)
    for image, label in made.items():
        save(tmp_path / "images" / "train", image, np.stack([label] * 3, -1))
    path = written(tmp_path / "x", "folder", drawn(made), handed)
    (tmp_path / "labels").mkdir()
    (path / "labels").rename(tmp_path / "labels" / "train")
    (path / "classes.txt").rename(tmp_path / "classes.txt")
    dataset = open_dataset(tmp_path, "train", layout="folder")
    assert dataset.classes.names == NAMES
    np.testing.assert_array_equal(dataset.classes.palette, COLOURS)
    for index, image in enumerate(dataset.pool.paths):
        original = f"{image.rpartition('.')[0]}.jpg"
        np.testing.assert_array_equal(dataset.read_label(index), made[original])


def test_names_that_a_list_of_classes_would_change_are_refused():
    made = labels(23)
    for names in (("road,", "sky"), ("a" * 400, "sky")):
        with pytest.raises(SegalError, match="list of classes"):
            FORMATS["folder"].check(handout(made, "folder", names=names))


def test_a_list_of_colours_is_written_only_where_it_can_be_read(tmp_path):
    made = labels(23, classes=3)
    options = WriteOptions("", ((0, 0, 0), (1, 2, 3), (4, 5, 6)))
    for number, (names, is_there) in enumerate(
        [
            (("lane 1 2 3", "a:b", "c"), True),
            (("4 wheels", "5 wheels", "6 wheels"), False),
            (("# road", "sky", "car"), False),
        ]
    ):
        handed, path = handout(made, "folder", names=names), tmp_path / str(number)
        path.mkdir()
        FORMATS["folder"].check(handed)
        FORMATS["folder"].write(path, handed, None, options)
        assert (path / "colours.txt").exists() == is_there
        for image, label in made.items():
            pixels = coloured(label, options.colours, (255, 255, 255)) if is_there else label
            save(path / "labels", image, pixels)
        same(read(path, handed), handed, made, names)


def test_masks_behind_links_that_lead_out_are_not_read(tmp_path):
    made, handed, folder = start(tmp_path / "out")
    image = handed.tasks[0].image
    elsewhere = save(tmp_path / "elsewhere", image, made[image])
    link = (folder / image).with_suffix(".png")
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    found = list(FORMATS["folder"].read(tmp_path / "out", handed))
    assert len(found) == 1 and "out of the folder" in str(found[0])


def test_damaged_masks_are_named_and_the_rest_is_read(tmp_path):
    made, handed, folder = start(tmp_path)
    first, second = made
    path = save(folder, first, made[first])
    path.write_bytes(path.read_bytes()[:-40])
    save(folder, second, made[second])
    found = list(FORMATS["folder"].read(tmp_path, handed))
    errors = [one for one in found if isinstance(one, SegalError)]
    assert len(errors) == sum(task.image == first for task in handed.tasks)
    assert "damaged" in str(errors[0]) and handed.tasks[0].key in str(errors[0])
    assert {one.key for one in found if isinstance(one, Answer)} == {
        task.key for task in handed.tasks if task.image == second
    }


# Classes of whole images


def classified(question="classification", count=4):
    made = {f"d/{i}.jpg": np.zeros((20, 30 + i), np.uint8) for i in range(count)}
    return handout(made, "folder", "context", question, ("cat", "dog", "3"), step=1000)


@pytest.mark.parametrize("kind", ["folder", "fiftyone", "labelme"])
@pytest.mark.parametrize("question", ["classification", "multilabel"])
def test_choices_come_back(tmp_path, kind, question):
    handed = classified(question)
    handed = type(handed)(**{**vars(handed), "kind": kind, "model": "0" * 8})
    chosen = {task.key: [handed.classes[i % 3]] for i, task in enumerate(handed.tasks)}
    if question == "multilabel":
        chosen[handed.tasks[0].key] = ["cat", "3"]

    def draft(task):
        if task is handed.tasks[-1]:
            return None
        return Answer(task.key, "network", choices=chosen[task.key])

    FORMATS[kind].check(handed)
    FORMATS[kind].write(tmp_path, handed, draft, OPTIONS)
    answers = read(tmp_path, handed)
    assert answers.keys() == {task.key for task in handed.tasks[:-1]}
    for key, answer in answers.items():
        assert list(answer.choices) == chosen[key]
        assert "nobody changed" in answer.notes[0]


def test_tables_of_choices(tmp_path):
    handed = classified()
    file = tmp_path / "labels.csv"
    file.write_text("path;label\nd/0.jpg;dog\nd/1.jpg;\nC:/x/d/2.jpg;bird\nother/3.jpg;cat\n")
    found = list(FORMATS["folder"].read(tmp_path, handed))
    assert [one.choices for one in found if isinstance(one, Answer)] == [("dog",), ("bird",)]
    assert ["other/3.jpg" in str(one) for one in found if isinstance(one, SegalError)] == [True]
    file.write_text("path,label\nd/0.jpg,1\nd/1.jpg,3\nd/2.jpg,0\n")  # numbers, and a name
    answers = read(file, handed)
    assert [one.choices for one in answers.values()] == [("dog",), ("3",), ("cat",)]
    file.write_text("path,label\nd/0.jpg,dog\n/x/d/0.jpg,cat\n")
    assert "two labels" in str(errors_of(tmp_path, handed)[0])


def test_tables_of_several_choices(tmp_path):
    handed = classified("multilabel")
    file = tmp_path / "labels.csv"
    file.write_text("path,cat,dog,3\nd/0.jpg,1,0,1\nd/1.jpg,,,\nd/2.jpg,0,0,0\nd/3.jpg,1,,0\n")
    found = list(FORMATS["folder"].read(tmp_path, handed))
    choices = [one.choices for one in found if isinstance(one, Answer)]
    assert choices == [("cat", "3"), ()]
    (error,) = (one for one in found if isinstance(one, SegalError))
    assert "half a label" in str(error) and handed.tasks[3].key in str(error)


def test_folders_of_classes(tmp_path):
    handed = classified()
    for place in ("cat/0.jpg", "dog/d/1.jpg", "cat/2.jpg", "dog/2.jpg"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = list(FORMATS["folder"].read(tmp_path, handed))
    assert [one.choices for one in found if isinstance(one, Answer)] == [("cat",), ("dog",)]
    (error,) = (one for one in found if isinstance(one, SegalError))
    assert "two labels" in str(error) and handed.tasks[2].key in str(error)


# Panoptic


def test_panoptic_segments_are_told_apart_and_must_be_listed(tmp_path):
    made = labels(24)
    handed = handout(made, "panoptic")
    path = written(tmp_path, "panoptic", drawn(made), handed)
    file = path / "panoptic_default.json"
    text = file.read_text()
    content = json.loads(text)
    for one, image in zip(content["annotations"], content["images"], strict=True):
        pixels = np.array(Image.open(path / "panoptic_default" / one["file_name"])).astype(int)
        ids = pixels @ [1, 256, 65536]
        assert ids.shape == (image["height"], image["width"])
        for segment in one["segments_info"]:
            assert segment["area"] == (ids == segment["id"]).sum() > 0
        assert set(np.unique(ids)) - {0} == {one["id"] for one in one["segments_info"]}

    def drop(content):
        content["annotations"][0]["segments_info"].pop()

    edited(file, drop)
    assert "not listed" in str(errors_of(path, handed)[0])
    file.write_text(text)

    def far(content):  # ids above 65535, as COCO's own files have
        for one in content["annotations"]:
            place = path / "panoptic_default" / one["file_name"]
            pixels = np.array(Image.open(place))
            pixels[..., 2] = np.where(pixels[..., 0] > 0, 200, 0)
            Image.fromarray(pixels).save(place)
            for segment in one["segments_info"]:
                segment["id"] += 200 * 65536

    edited(file, far)
    same(read(path, handed), handed, made)

    def away(content):
        content["annotations"][0]["file_name"] = "../../x.png"

    edited(file, away)
    assert "out of the folder" in str(errors_of(path, handed)[0])


# Cityscapes


def official(objects, height, width):
    """createLabelImage of cityscapesScripts 2.3.0, encoding ids; tools/ runs the original."""
    image = Image.new("L", (width, height), 0)
    drawer = ImageDraw.Draw(image)
    for one in objects:
        label = one["label"]
        if one.get("deleted"):
            continue
        if label not in IDS and label != "license plate" and label.endswith("group"):
            label = label[: -len("group")]
        if label == "license plate":
            continue
        drawer.polygon([tuple(point) for point in one["polygon"]], fill=IDS[label])
    return np.array(image)


def test_cityscapes_polygons_are_drawn_as_the_official_tool_draws_them(tmp_path):
    rng = np.random.default_rng(0)
    made = labels(25, sizes=((137, 211),))
    handed = handout(made, "cityscapes", step=1000)
    (task,) = handed.tasks
    FORMATS["cityscapes"].write(tmp_path, handed, None, OPTIONS)
    file = tmp_path / "gtFine" / "town" / "a_gtFine_polygons.json"
    assert read(tmp_path, handed) == {}
    names = [*IDS, "cargroup", "persongroup", "license plate"]
    objects = [
        {
            "label": names[rng.integers(len(names))],
            "polygon": rng.integers(-20, 220, (int(rng.integers(2, 9)), 2)).tolist(),
            "deleted": int(rng.random() < 0.1),
        }
        for _ in range(80)
    ]
    file.write_text(json.dumps({"imgHeight": 137, "imgWidth": 211, "objects": objects}))
    (answer,) = read(tmp_path, handed).values()
    wanted = np.full(256, VOID, np.uint8)
    for number, (value, _, _) in enumerate(CLASSES):
        wanted[value] = number
    np.testing.assert_array_equal(composed(answer, task)[0], wanted[official(objects, 137, 211)])
    assert "Pillow" in answer.lossy and any("polegroup" in note for note in answer.notes)
    objects.append({"label": "raod", "polygon": [[0, 0], [9, 0], [9, 9]]})
    file.write_text(json.dumps({"imgHeight": 137, "imgWidth": 211, "objects": objects}))
    (answer,) = read(tmp_path, handed).values()
    assert "raod" in {layer.name for layer in answer.layers}


def test_cityscapes_ids_that_are_not_classes_are_told_and_classes_must_be_its_own(tmp_path):
    made = labels(26, sizes=((37, 53),))
    handed = handout(made, "cityscapes", step=1000)
    ids = np.zeros((37, 53), np.uint8)
    ids[:5], ids[5:9] = 7, 4
    save(tmp_path / "gtFine", "town/a_gtFine_labelIds.x", ids)
    (answer,) = read(tmp_path, handed).values()
    assert [layer.name for layer in answer.layers] == ["road"]
    assert "212 pixels of 'static'" in answer.notes[0]
    ids[0, 0] = 60
    save(tmp_path / "gtFine", "town/a_gtFine_labelIds.x", ids)
    assert "60 (1 pixels)" in str(errors_of(tmp_path, handed)[0])
    FORMATS["cityscapes"].check(handout(made, "cityscapes", names=("road", "parking")))
    with pytest.raises(SegalError, match="does not have"):
        FORMATS["cityscapes"].check(handout(made, "cityscapes", names=("road", "street")))


# labelme


def labelme(tmp_path, seed=27, size=(60, 80), **options):
    made = labels(seed, sizes=(size,))
    handed = handout(made, "labelme", **options)
    FORMATS["labelme"].write(tmp_path, handed, None, OPTIONS)
    return made, handed, tmp_path / "town" / "a_leftImg8bit.json"


def labelme_6(shape, size):
    """`shape_to_mask` of labelme 6.3.1, by which it makes masks of shapes."""
    image = Image.new("L", size[::-1])
    draw = ImageDraw.Draw(image)
    points = [tuple(point) for point in shape["points"]]
    if shape["shape_type"] == "circle":
        (cx, cy), (px, py) = points
        d = math.sqrt((cx - px) ** 2 + (cy - py) ** 2)
        draw.ellipse(((cx - d, cy - d), (cx + d, cy + d)), outline=1, fill=1)
    elif shape["shape_type"] == "rectangle":
        (x0, y0), (x1, y1) = points
        box = ((min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1)))
        draw.rectangle(box, outline=1, fill=1)
    else:
        draw.polygon(xy=points, outline=1, fill=1)
    return np.array(image, bool)


def png(mask):
    data = io.BytesIO()
    Image.fromarray(mask).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def test_labelme_shapes_are_filled_as_labelme_fills_them_and_later_ones_lie_on_top(tmp_path):
    rng = np.random.default_rng(1)
    _, handed, file = labelme(tmp_path, step=1000)
    shapes = []
    wanted = np.full((60, 80), VOID, np.uint8)
    for number in range(30):
        kind = ("polygon", "rectangle", "circle", "oriented_rectangle")[number % 4]
        count = {"polygon": 5, "oriented_rectangle": 4}.get(kind, 2)
        points = (rng.random((count, 2)) * [80, 60]).tolist()
        shapes.append({"label": NAMES[number % 19], "points": points, "shape_type": kind})
        wanted[labelme_6(shapes[-1], (60, 80))] = number % 19

    edited(file, lambda content: content.update(shapes=shapes))
    (answer,) = read(tmp_path, handed).values()
    np.testing.assert_array_equal(composed(answer, handed.tasks[0])[0], wanted)
    assert "Pillow" in answer.lossy


def test_labelme_masks_are_written_as_labelme_reads_them(tmp_path):
    made = labels(28, sizes=((60, 80),))
    handed = handout(made, "labelme", step=1000)
    FORMATS["labelme"].write(tmp_path, handed, drawn(made), OPTIONS)
    content = json.loads((tmp_path / "town" / "a_leftImg8bit.json").read_text())
    painted = np.full((60, 80), VOID, np.uint8)
    for shape in content["shapes"]:
        (x1, y1), (x2, y2) = np.array(shape["points"]).astype(int)
        mask = np.array(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))).astype(bool)
        painted[y1 : y2 + 1, x1 : x2 + 1][mask] = NAMES.index(shape["label"])
    np.testing.assert_array_equal(painted, next(iter(made.values())))
    assert content["imagePath"] == "images/town/a_leftImg8bit.jpg"
    assert (content["imageHeight"], content["imageWidth"]) == (60, 80)


def test_labelme_masks_at_parts_of_pixels_have_their_own_size(tmp_path):
    _, handed, file = labelme(tmp_path, step=1000)
    mask = np.ones((4, 3), np.uint8)
    shape = {"label": "sky", "shape_type": "mask", "mask": png(mask)}
    edited(file, lambda c: c.update(shapes=[shape | {"points": [[5.4, 6.6], [7.9, 9.1]]}]))
    (answer,) = read(tmp_path, handed).values()
    (layer,) = answer.layers
    assert layer.corner == (5, 7) and layer.mask.shape == (4, 3) and not answer.lossy


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ({"shape_type": "mask", "points": [[5, 6], [8, 9]]}, "another size"),
        ({"shape_type": "mask", "points": [[79, 6], [81, 9]]}, "leaves the image"),
        ({"shape_type": "mask", "points": [[5, 6], [7, 9]], "mask": None}, "no mask"),
        ({"shape_type": "mask", "points": [[5, 6], [7, 9]], "mask": "%%%"}, "no mask"),
        ({"shape_type": "mask", "points": [[5, 6], [7, 9]], "mask": "AAAA"}, "no mask"),
        ({"shape_type": "polygon", "points": [[5, 6], [7, 9]]}, "outline"),
        ({"shape_type": "rectangle", "points": [[5, 6], [7, 9], [1, 1]]}, "not of the shape"),
        ({"shape_type": "line", "points": [[5, 6], [7, 9]]}, "without an area"),
        ({"shape_type": "polygon", "points": [[5, 6], [7, 9], [1, None]]}, "outline"),
        ({"label": 5}, "without a label"),
    ],
)
def test_what_is_wrong_with_a_shape_of_labelme_names_the_task(tmp_path, shape, problem):
    _, handed, file = labelme(tmp_path)
    whole = {"label": "sky", "mask": png(np.ones((4, 3), np.uint8)), "points": [[5, 6]]}
    edited(file, lambda content: content["shapes"].append(whole | shape))
    found = errors_of(tmp_path, handed)
    assert len(found) == len(handed.tasks)
    assert problem in str(found[0]) and handed.tasks[0].key in str(found[0])


def test_labelme_regions_are_no_class_and_must_not_be_moved(tmp_path):
    _, handed, file = labelme(tmp_path)
    assert read(tmp_path, handed) == {}
    edited(file, lambda content: content["flags"].update(done=True))
    answers = read(tmp_path, handed)
    assert answers.keys() == {task.key for task in handed.tasks}
    assert not any(answer.layers for answer in answers.values())

    def move(content):
        content["shapes"][0]["points"][1][0] += 3

    edited(file, move)
    assert "was moved" in str(errors_of(tmp_path, handed)[0])
    for name in ("segal_region", "done"):
        with pytest.raises(SegalError, match=r"marks something else|own label"):
            FORMATS["labelme"].check(handout(labels(), "labelme", names=(name, "x")))


def test_a_labelme_file_of_another_image_is_refused(tmp_path):
    made = labels(29)
    handed = handout(made, "labelme")
    path = written(tmp_path, "labelme", drawn(made), handed)
    one, other = sorted(p for p in path.rglob("*.json") if p.name != "regions.json")
    edited(
        one, lambda content: content.update(imagePath=json.loads(other.read_text())["imagePath"])
    )
    assert "a file of another image" in str(errors_of(path, handed)[0])


# FiftyOne


def test_fiftyone_masks_of_colours_and_other_values(tmp_path):
    made, handed, folder = start(tmp_path, "fiftyone")
    targets = {
        f"#{r:02x}{g:02X}{b:02x}": name for name, (r, g, b) in zip(NAMES, COLOURS, strict=True)
    }
    (tmp_path / "mask_targets.json").write_text(json.dumps(targets))
    for image, label in made.items():
        save(folder, image, coloured(label))
    same(read(tmp_path, handed), handed, made)
    targets = {str(200 - i): name for i, name in enumerate(NAMES)}
    (tmp_path / "mask_targets.json").write_text(json.dumps(targets))
    for image, label in made.items():
        save(folder, image, np.where(label == VOID, 0, 200 - label).astype(np.uint8))
    same(read(tmp_path, handed), handed, made)
    save(folder, next(iter(made)), np.full((37, 53), 5, np.uint8))
    assert "5 (1961 pixels)" in str(errors_of(tmp_path, handed)[0])
    (tmp_path / "mask_targets.json").write_text('{"x": "road"}')
    with pytest.raises(SegalError, match="no targets"):
        list(FORMATS["fiftyone"].read(tmp_path, handed))


def test_fiftyone_labels_by_name_confidence_and_absolute_path(tmp_path):
    handed = classified()
    handed = type(handed)(**{**vars(handed), "kind": "fiftyone"})
    said = {"/data/d/0.jpg": {"label": 1, "confidence": 0.5}, "d/1": "cat", "d/2": None, "e/3": 0}
    content = {"classes": list(handed.classes), "labels": said}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    found = list(FORMATS["fiftyone"].read(tmp_path, handed))
    assert [one.choices for one in found if isinstance(one, Answer)] == [("dog",), ("cat",)]
    assert ["e/3" in str(one) for one in found if isinstance(one, SegalError)] == [True]
    content["labels"] = {"d/0": 7, "d/1": True, "d/2": [None], "d/3": {"label": 1.5}}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    assert len(errors_of(tmp_path, handed)) == 4


# VOC


def test_voc_masks_without_a_list_have_vocs_own_values(tmp_path):
    names = ("cat", "sofa", "person")
    made = labels(30, classes=3)
    handed = handout(made, "voc", names=names)
    values = np.zeros(256, np.uint8)
    values[:3], values[VOID] = (8, 18, 15), 255
    for image, label in made.items():
        picture = Image.fromarray(np.where(label == VOID, 0, values[label]).astype(np.uint8))
        picture.putpalette(palette(256).tobytes())
        path = (tmp_path / "SegmentationClass" / image).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    same(read(tmp_path, handed), handed, made, names)


def test_what_the_network_says_of_a_region_is_a_layer_each_class_and_none_over_another():
    made = labels(31, sizes=((37, 53),))
    (task,) = handout(made, "coco", step=1000).tasks
    label = region_of(made[task.image], task)
    layers = Painting().answer(label, task, NAMES).layers
    assert sorted(layer.name for layer in layers) == sorted(
        {NAMES[v] for v in label[label != VOID]}
    )
    assert sum(np.count_nonzero(layer.mask) for layer in layers) == (label != VOID).sum()
    answer = Answer(task.key, "network", layers=[*layers, Layer("wall", np.zeros((2, 2), bool))])
    np.testing.assert_array_equal(composed(answer, task)[0], label)
    found = draft_layers(lambda _: answer, task)
    assert [one.name for one in found] == [layer.name for layer in layers]
    np.testing.assert_array_equal(composed(Answer(task.key, "", layers=found), task)[0], label)


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (9, 1), (33, 70), (5, 17)])
def test_labelme_masks_are_pngs_of_one_bit(size):
    mask = np.random.default_rng(0).random(size) < 0.5
    data = bilevel_png(mask)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("PNG", "1")
    np.testing.assert_array_equal(np.array(image), mask)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), -1) > 0, mask)
