"""Layouts of data sets beside the plain one and that of Cityscapes: tiny ones of each."""

import shutil

import numpy as np
import pytest
from PIL import Image

from segal.data.datasets import layout_name, open_dataset, splits
from segal.data.voc import NAMES, palette
from segal.errors import SegalError

SIZE = (18, 24)


def write(path, pixels, colours=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if colours is not None:
        image.putpalette(colours.ravel().tolist())
    image.save(path)


def label(seed, values=3):
    return np.random.default_rng(seed).integers(0, values, SIZE, dtype=np.uint8)


def picture(path):
    write(path, np.zeros((*SIZE, 3), np.uint8))


def message(*arguments, **options):
    with pytest.raises(SegalError) as caught:
        open_dataset(*arguments, **options)
    return str(caught.value)


@pytest.fixture
def voc(tmp_path):
    for i in range(3):
        name = f"2007_{i:06d}"
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        values = np.where(label(i, 22) == 21, 255, label(i, 22)).astype(np.uint8)
        write(tmp_path / "SegmentationClass" / f"{name}.png", values, palette(256))
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000002\n2007_000000\n")
    (lists / "val.txt").write_text("2007_000001\n")
    return tmp_path


def test_voc(voc):
    assert splits(voc) == ["train", "val"]
    data = open_dataset(voc, "train")
    assert data.pool.root == voc / "JPEGImages"
    assert data.pool.paths == ("2007_000000.jpg", "2007_000002.jpg")
    assert data.classes.names == NAMES
    assert len(NAMES) == 21
    expected = label(2, 22)
    assert np.array_equal(data.read_label(1), np.where(expected == 21, 255, expected))
    # As the colours are published: aeroplane, person, tvmonitor, void.
    colours = palette(256)[[1, 15, 20, 255]].tolist()
    assert colours == [[128, 0, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192]]
    assert data.classes.palette[1].tolist() == [128, 0, 0]


def test_voc_without_background(voc):
    for options in ({"ignore_index": 0}, {"reduce_zero_label": True}):
        data = open_dataset(voc, "val", **options)
        assert data.classes.names == NAMES[1:]
        raw = label(1, 22).astype(int)
        expected = np.where((raw == 0) | (raw == 21), 255, raw - 1)
        assert np.array_equal(data.read_label(0), expected)


def test_voc_with_colours_of_its_own(voc):
    """As CVAT and datumaro write it: pictures of the colours that labelmap.txt lists."""
    colours = np.array([[0, 0, 0], [250, 170, 30], [128, 64, 128]], np.uint8)
    rows = ["# label:color_rgb:parts:actions", "background:0,0,0::", "traffic light:250,170,30::"]
    (voc / "labelmap.txt").write_text("\n".join([*rows, "road:128,64,128::"]))
    for i in range(3):
        path = voc / "SegmentationClass" / f"2007_{i:06d}.png"
        if i == 2:  # a palette image of these colours is as good as a picture of them
            write(path, label(i), colours)
        else:
            write(path, colours[label(i)])
    data = open_dataset(voc, "train")
    assert data.classes.names == ("background", "traffic light", "road")
    assert np.array_equal(data.read_label(0), label(0))
    assert np.array_equal(data.read_label(1), label(2))


def test_mistakes_of_lists_are_told_at_once(voc):
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text(
        "2007_000000\n2007_000009\n2007_000002\n"
    )
    (voc / "SegmentationClass" / "2007_000002.png").unlink()
    text = message(voc, "train")
    assert "2007_000009.jpg: cannot be read" in text
    assert "2007_000002.jpg: the image has no label" in text
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text("a b\n../c\nd\nd\n")
    text = message(voc, "train")
    assert all(part in text for part in ("'a b'", "'../c'", "names that occur twice"))
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text("\n")
    assert "names no image" in message(voc, "train")
    assert "one of train, val" in message(voc, "test")
    for file in (voc / "ImageSets" / "Segmentation").iterdir():
        file.unlink()
    assert "ImageSets/Segmentation/<split>.txt" in message(voc, "train")


def test_names_of_lists_may_have_blanks_and_extensions(voc):
    for kind, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (voc / kind / f"2007_000000.{suffix}").rename(voc / kind / f"a frame.{suffix}")
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text("a frame\n2007_000001.jpg\n")
    assert open_dataset(voc, "train").pool.paths == ("2007_000001.jpg", "a frame.jpg")


def test_a_name_of_a_list_stands_for_one_image(voc):
    picture(voc / "JPEGImages" / "2007_000000.png")
    listed = voc / "ImageSets" / "Segmentation" / "train.txt"
    assert "2007_000000 may be any of several images" in message(voc, "train")
    listed.write_text("2007_000000.png\n")
    assert open_dataset(voc, "train").pool.paths == ("2007_000000.png",)


def test_names_that_are_too_long_are_names_of_nothing(voc):
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text(f"{'a' * 300}/b\n{'a' * 300}\n")
    assert "cannot be read" in message(voc, "train")
    assert "has no label" in message(voc, "val", label_suffix="_" * 300)


def test_a_long_list_is_read(voc):
    names = [f"a/long/path/of/images/that/is/not/there_{i:07d}" for i in range(40_000)]
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join([*names, *names]))
    assert "names that occur twice" in message(voc, "train")


def test_only_labelled_images_of_a_list_need_a_label(voc):
    (voc / "SegmentationClass" / "2007_000002.png").unlink()
    assert open_dataset(voc, "train", only=["2007_000000.jpg"]).pool.paths == ("2007_000000.jpg",)
    assert "not of split 'train'" in message(voc, "train", only=["2007_000001.jpg"])


@pytest.fixture
def ade(tmp_path):
    for split, count in (("training", 2), ("validation", 1)):
        for i in range(count):
            picture(tmp_path / "images" / split / f"ADE_{i}.jpg")
            write(tmp_path / "annotations" / split / f"ADE_{i}.png", label(i, 4))
    rows = ["1\t0.1\t5\t5\t1\twall", "2\t0.1\t5\t5\t1\tbuilding, edifice", "3\t0.1\t5\t5\t1\tsky"]
    header = "Idx\tRatio\tTrain\tVal\tStuff\tName"
    (tmp_path / "objectInfo150.txt").write_text("\n".join([header, *rows, ""]))
    return tmp_path


def test_ade20k(ade):
    assert splits(ade) == ["training", "validation"]
    data = open_dataset(ade, "training")
    assert data.pool.root == ade / "images" / "training"
    assert data.classes.names == ("wall", "building", "sky")
    expected = label(1, 4).astype(int) - 1
    assert np.array_equal(data.read_label(1), np.where(expected < 0, 255, expected))
    data.check()
    # Asking for what is so anyhow changes nothing.
    assert open_dataset(ade, "training", reduce_zero_label=True).digest() == data.digest()
    (ade / "classes.txt").write_text("wall\nbuilding\nheaven\n")
    assert open_dataset(ade, "training").classes.names == ("wall", "building", "heaven")
    (ade / "classes.txt").unlink()
    (ade / "objectInfo150.txt").write_text("1 wall\n2 sky\n")
    assert "not the list of ADE20K's classes" in message(ade, "training")
    (ade / "objectInfo150.txt").unlink()
    assert "classes.txt" in message(ade, "training")


def test_the_plain_layout_may_have_the_folders_of_ade20k(ade):
    (ade / "classes.txt").write_text("wall\nsky\ncar\n")
    data = open_dataset(ade, "training", layout="folder")
    assert data.classes.lookup[0] == 0


def test_camvid(tmp_path):
    for split in ("train", "val"):
        for i in range(2):
            picture(tmp_path / split / f"{i}.png")
            write(tmp_path / f"{split}annot" / f"{i}.png", label(i, 12))
    assert splits(tmp_path) == ["train", "val"]
    data = open_dataset(tmp_path, "train")
    assert len(data.classes) == 11
    assert data.classes.names[9:] == ("Pedestrian", "Bicyclist")
    expected = label(1, 12)
    assert np.array_equal(data.read_label(1), np.where(expected == 11, 255, expected))
    (tmp_path / "classes.txt").write_text("\n".join(f"c{i}x" for i in range(12)))
    assert len(open_dataset(tmp_path, "train").classes) == 12


@pytest.fixture
def plain(tmp_path):
    for i in range(2):
        picture(tmp_path / "images" / "train" / f"{i}.jpg")
        write(tmp_path / "labels" / "train" / f"{i}.png", label(i))
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    return tmp_path


def test_images_that_are_not_read_are_named_without_official_splits(plain):
    for kind in ("images", "labels"):
        for file in list((plain / kind / "train").iterdir()):
            for i in range(9):
                shutil.copy(file, plain / kind / f"{i}{file.suffix}")
        shutil.rmtree(plain / kind / "train")
    for i in range(20):
        (plain / "images" / f"new{i}.jp2").touch()
    named = [path for split in splits(plain) for path in open_dataset(plain, split).pool.other]
    assert sorted(named) == sorted(f"new{i}.jp2" for i in range(20))
    assert len(open_dataset(plain, "train").pool.other) < 20


@pytest.mark.parametrize("suffix", ["PNG", "tif", "TIFF", "bmp", "Bmp"])
def test_labels_of_other_formats(plain, suffix):
    folder = plain / "labels" / "train"
    write(folder / f"1.{suffix}", label(1))
    (folder / "1.png").unlink()
    data = open_dataset(plain, "train")
    assert [path.name for path in data.label_paths] == ["0.png", f"1.{suffix}"]
    assert np.array_equal(data.read_label(1), label(1))
    write(folder / "1.x.tif", label(1))
    write(folder / "1.tif", label(1))
    write(folder / "1.BMP", label(1))
    assert "more than one label for 1.jpg" in message(plain, "train")


def test_labels_in_jpeg_are_named(plain):
    write(plain / "labels" / "train" / "1.jpg", label(1))
    (plain / "labels" / "train" / "1.png").unlink()
    text = message(plain, "train")
    assert "1.jpg is there, but JPEG does not keep values" in text


@pytest.mark.parametrize("given", ["_mask", "_mask.png"])
def test_labels_whose_names_go_on(plain, given):
    folder = plain / "labels" / "train"
    for i in range(2):
        (folder / f"{i}.png").rename(folder / f"{i}_mask.png")
    assert "give label_suffix" in message(plain, "train")
    data = open_dataset(plain, "train", label_suffix=given)
    assert np.array_equal(data.read_label(1), label(1))


def test_a_suffix_leads_nowhere_else(plain):
    write(plain.parent / "outside.png", label(0))
    for i in range(2):
        (plain / "labels" / "train" / str(i)).mkdir()
    given = "/../../../../outside"
    assert "leads out of the folder" in message(plain, "train", label_suffix=given)


@pytest.mark.parametrize("name", ["annotations", "masks"])
def test_other_names_of_the_folder_of_labels(plain, name):
    (plain / "labels").rename(plain / name)
    assert np.array_equal(open_dataset(plain, "train").read_label(0), label(0))


def test_zero_may_be_void_in_the_plain_layout(plain):
    (plain / "classes.txt").write_text("road\ncar\n")
    data = open_dataset(plain, "train", reduce_zero_label=True)
    assert np.array_equal(data.read_label(0), np.array([255, 0, 1], np.uint8)[label(0)])


def test_train_ids_of_cityscapes(tmp_path):
    for i in range(2):
        stem = f"train/ulm/ulm_{i:06d}_000019"
        picture(tmp_path / "leftImg8bit" / f"{stem}_leftImg8bit.png")
        ids = np.where(label(i, 20) == 19, 255, label(i, 20)).astype(np.uint8)
        write(tmp_path / "gtFine" / f"{stem}_gtFine_labelTrainIds.png", ids)
    data = open_dataset(tmp_path, "train")
    expected = label(1, 20)
    assert np.array_equal(data.read_label(1), np.where(expected == 19, 255, expected))
    assert "_gtFine_labelTrainIds.png" in data.classes.notes[0]
    # Where both are there, it is the label ids, unless it is said.
    for i in range(2):
        write(tmp_path / f"gtFine/train/ulm/ulm_{i:06d}_000019_gtFine_labelIds.png", label(i, 34))
    both = open_dataset(tmp_path, "train")
    assert both.label_paths[0].name.endswith("_gtFine_labelIds.png")
    assert both.classes.names == data.classes.names
    for given in ("labelTrainIds", "_gtFine_labelTrainIds", "_gtFine_labelTrainIds.png"):
        chosen = open_dataset(tmp_path, "train", label_suffix=given)
        assert np.array_equal(chosen.read_label(1), data.read_label(1))
    assert "not a kind of labels" in message(tmp_path, "train", label_suffix="_gtFine_color.png")
    assert "cannot be chosen" in message(tmp_path, "train", reduce_zero_label=True)


def test_names_of_layouts():
    assert [layout_name(n) for n in ("auto", "voc", "folder")] == ["auto", "voc", "folder"]
    names = "ade20k, camvid, cityscapes, folder, voc"
    with pytest.raises(SegalError, match=names):
        layout_name("coco")
