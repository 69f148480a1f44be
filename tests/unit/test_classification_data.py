"""Labelled data of classification: layouts, splits, labels, and what is wrong with them."""

import csv

import numpy as np
import pytest
from PIL import Image

from segal.data.folder import split_of
from segal.data.image_sets import ImageSet
from segal.errors import SegalError
from segal.tasks.classification.datasets import is_dataset, layout_name, open_split, splits
from segal.tasks.classification.unlabelled import open_pool

NAMES = ("ant", "bee", "cat")


def message(call, *args, **options):
    with pytest.raises(SegalError) as caught:
        call(*args, **options)
    return str(caught.value)


def write(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), (value, 1, 2)).save(path)


def make_folders(root, names=NAMES, splits=("train", "test"), each=3):
    value = 0
    for split in splits:
        for name in names:
            for i in range(each):
                write(root / split / name / f"{i}.png", value := value + 1)
    return root


def make_images(root, count=6):
    for i in range(count):
        write(root / f"img/{i}.png", i)
    return root


def table(file, rows):
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows(rows)
    return file


def make_csv(root, labels=("cat", "ant", "bee", "ant", "cat", "bee"), header=("path", "label")):
    make_images(root)
    rows = [[f"img/{i}.png", label] for i, label in enumerate(labels)]
    table(root / "train.csv", [*([header] if header else []), *rows[:4]])
    table(root / "test.csv", [*([header] if header else []), *rows[4:]])
    return root


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def make_npz(file, y=(0, 1, 2, 1), test=(2, 0), names=None, **more):
    if names is not None:
        more["classes"] = np.array(names)
    np.savez(
        file,
        x_train=pictures(len(y)),
        y_train=np.array(y),
        x_test=pictures(len(test), 1),
        y_test=np.array(test),
        **more,
    )
    return file


def make_features(root, y=(0, 1, 2, 1), count=None, split="train"):
    (root / split).mkdir(parents=True, exist_ok=True)
    count = len(y) if count is None else count
    x = np.random.default_rng(0).normal(size=(count, 5)).astype(np.float16)
    np.save(root / split / "features.npy", x)
    np.save(root / split / "labels.npy", np.array(y))
    return root


def labels_of(data):
    return [data.read_label(i).tolist() for i in range(len(data))]


def test_folders(tmp_path):
    root = make_folders(tmp_path)
    (root / "docs" / "html").mkdir(parents=True)
    assert splits(root) == ["test", "train"] and is_dataset(root)
    data = open_split(root, "train", workers=2)
    assert data.classes.names == NAMES and data.classes.palette.shape == (3, 3)
    assert data.pool.root == root / "train" and data.pool.paths[0] == "ant/0.png"
    assert data.pool.paths == open_pool(root / "train").paths
    assert labels_of(data) == [[[c]] for c in (0, 0, 0, 1, 1, 1, 2, 2, 2)]
    assert data.read_label(0).dtype == np.int32
    counts = data.check()
    assert counts.pixels.tolist() == [3, 3, 3] and counts.void == 0 and not counts.empty
    part = data.subset([8, 0])
    assert labels_of(part) == [[[2]], [[0]]] and part.pool.paths == ("cat/2.png", "ant/0.png")
    assert part.check().pixels.tolist() == [1, 0, 1]
    assert part.digest() == data.digest([8, 0]) != data.digest([0, 8])
    assert part.digests() == data.digests([8, 0]) and len(set(data.digests().values())) == 3


def test_class_list_gives_order_and_classes_without_images(tmp_path):
    root = make_folders(tmp_path)
    (root / "classes.txt").write_text("cat\nbee\nwasp\nant\n")
    data = open_split(root, "train")
    assert data.classes.names == ("cat", "bee", "wasp", "ant")
    assert data.check().pixels.tolist() == [3, 3, 0, 3]
    (root / "classes.txt").write_text("cat\nbeee\nant\n")
    text = message(open_split, root, "train")
    assert "'bee' of 3 images, such as bee/0.png" in text and "did you mean 'beee'?" in text
    (root / "classes.txt").write_text("cat\nbee\ncat\n")
    assert "cat more than once" in message(open_split, root, "train")


def test_folders_that_are_numbers_keep_the_order_of_torchvision(tmp_path):
    root = make_folders(tmp_path, names=("0", "1", "2", "10"), each=1)
    data = open_split(root, "train")
    assert data.classes.names == ("0", "1", "10", "2")
    assert "0, 1, 10, 2" in data.classes.notes[0]
    torchvision = pytest.importorskip("torchvision.datasets")
    oracle = torchvision.ImageFolder(str(root / "train"))
    assert list(data.classes.names) == oracle.classes
    assert data.labels.tolist() == [label for _, label in oracle.samples]


def test_folders_that_are_wrong(tmp_path):
    root = make_folders(tmp_path)
    (root / "train" / "dog").mkdir()
    (root / "train" / ".hidden").mkdir()
    write(root / "train" / "loose.png")
    text = message(open_split, root, "train")
    assert "train/dog: a class with no image" in text and "remove the folder" in text
    assert "1, such as loose.png" in text
    assert "task: classification" in message(open_split, root, "test", multilabel=True)
    other = make_folders(tmp_path / "b", names=("ant", "bee"))
    write(other / "test" / "been" / "1.png")
    text = message(open_split, other, "train")
    assert "classes of test that train has no image of" in text and "train has 'bee'" in text
    text = message(open_split, other, "val")
    assert "one of test, train; validation_share" in text


def test_folders_without_splits_are_split_by_hash(tmp_path):
    root = make_folders(tmp_path, splits=("",), each=20)
    assert splits(root) == ["test", "train", "val"]
    parts = {split: open_split(root, split) for split in splits(root)}
    for split, data in parts.items():
        assert all(split_of(path) == split for path in data.pool.paths)
        assert [NAMES[label] for label in data.labels] == [p[:3] for p in data.pool.paths]
    assert sum(map(len, parts.values())) == 60
    few = make_folders(tmp_path / "few", splits=("",), each=1)
    for split in splits(few):
        if not any(split_of(f"{name}/0.png") == split for name in NAMES):
            assert "holds no image" in message(open_split, few, split)


def test_a_class_may_be_named_as_a_split(tmp_path):
    root = make_folders(tmp_path, names=("train", "bus"), splits=("",), each=9)
    assert splits(root) == ["test", "train", "val"]
    assert open_split(root, "train").classes.names == ("bus", "train")


@pytest.mark.parametrize(
    "header", [("path", "label"), None, ("Filename", "Species"), ("img_id", "class")]
)
def test_tables_with_and_without_a_row_of_names(tmp_path, header):
    root = make_csv(tmp_path, header=header)
    data = open_split(root, "train")
    assert data.pool.root == root
    assert data.pool.paths == ("img/0.png", "img/1.png", "img/2.png", "img/3.png")
    assert data.classes.names == NAMES and data.labels.tolist() == [2, 0, 1, 0]
    assert open_split(root, "test").labels.tolist() == [2, 1]
    assert open_pool(root / "train.csv").infos == data.pool.infos


def test_one_table_with_a_column_of_splits(tmp_path):
    make_images(tmp_path)
    rows = [
        [name, f"img/{i}.png", part]
        for i, (name, part) in enumerate(zip("baab", "tvtt", strict=True))
    ]
    table(tmp_path / "set.csv", [("label", "path", "split"), *reversed(rows)])
    for root in (tmp_path, tmp_path / "set.csv"):
        assert splits(root) == ["t", "v"]
        data = open_split(root, "t")
        assert data.pool.paths == ("img/0.png", "img/2.png", "img/3.png")
        assert data.labels.tolist() == [1, 0, 1]
    semicolons = "label;path;split\nb;./img/0.png;t\na;img/1.png;v\nb;img/2.png;v"
    (tmp_path / "set.csv").write_text(semicolons, encoding="utf-16")
    assert open_split(tmp_path / "set.csv", "v").labels.tolist() == [0, 1]


def test_one_table_without_splits(tmp_path):
    root = make_images(tmp_path, 40)
    table(root / "all.csv", [[f"img/{i}.png", "ab"[i % 2]] for i in range(40)])
    parts = [open_split(root, split) for split in splits(root)]
    assert sum(map(len, parts)) == 40 and len(parts[1]) > 20
    numbers = [int(path[4:-4]) for path in parts[1].pool.paths]
    assert parts[1].labels.tolist() == [n % 2 for n in numbers]


def test_labels_as_numbers(tmp_path):
    root = make_csv(tmp_path, labels=("2", "0", "1", "0", "2.0", "1"))
    data = open_split(root, "train")
    assert data.classes.names == ("class 0", "class 1", "class 2")
    assert data.labels.tolist() == [2, 0, 1, 0]
    root = make_csv(tmp_path, labels=("1", "3", "1", "7", "3", "3"))
    text = message(open_split, root, "train")
    assert "every number from 0 to 2, for 3 classes" in text
    assert "got: 1 to 7, without 0, 2, 4, 5, 6" in text and "`NUMBER NAME`" in text
    (root / "classes.txt").write_text("1 ant\n7 bee\n3 cat\n")
    data = open_split(root, "train")
    assert data.classes.names == ("ant", "cat", "bee") and data.labels.tolist() == [0, 1, 0, 2]
    (root / "classes.txt").write_text("1 ant\n3 cat\n")
    text = message(open_split, root, "train")
    assert "'7' of 1 images, such as img/3.png" in text and "numbers 1 to 3" in text
    make_csv(tmp_path, labels=("1", "3", "ant", "7", "3", "3"))
    text = message(open_split, root, "train")
    assert "none of the 2 classes has" in text  # names now: 1, 3 and 7 are none of them


def test_tables_that_are_wrong(tmp_path):
    root = make_images(tmp_path)
    rows = [["path", "label"], ["img/0.png", "a"], ["img/0.png", "b"], ["./img/0.png", "b"]]
    table(root / "train.csv", [*rows, ["", "a"], ["img/2.png"]])
    text = message(open_split, root, "train")
    assert "img/0.png is listed more than once" in text and "lines 2, 3, 4" in text
    assert "line 5 has no path" in text and "line 6 has no path" in text
    table(root / "train.csv", [["path", "label", "set"], ["img/0.png", "a", ""]])
    assert "line 2 has no path or no split" in message(open_split, root / "train.csv", "test")
    table(root / "train.csv", [["path", "x", "y1"], ["img/0.png", "a", "b"]])
    text = message(open_split, root, "train")
    assert "which column holds the label cannot be told" in text and "path, x, y1" in text
    table(root / "train.csv", [["id", "label"], ["0", "a"]])
    assert "no column of paths" in message(open_split, root, "train", layout="csv")
    table(root / "train.csv", [["path", "label"]])
    assert "lists no image" in message(open_split, root, "train")
    table(root / "train.csv", [["img/0.png", "a"], ["img/1.png", "b"]])
    table(root / "test.csv", [["img/2.png", "a"], ["img/1.png", "b"]])
    assert "img/1.png is in train and in test" in message(open_split, root, "train")
    table(root / "test.csv", [["img/2.png", "a"], ["img/3.png", "c"]])
    assert "classes of test that train has no image of" in message(open_split, root, "train")
    table(root / "test.csv", [["img/2.png", "0"], ["img/3.png", "1"]])
    assert "names in one split and numbers in another" in message(open_split, root, "train")


def test_paths_outside_and_missing_images(tmp_path):
    root = make_images(tmp_path / "in")
    write(tmp_path / "out.png")
    outside = ["../out.png", str(tmp_path / "out.png"), "img/gone.png"]
    table(root / "train.csv", [[path, "a"] for path in [*outside, "img/0.png"]])
    text = message(open_split, root, "train")
    assert "3 of 4 images" in text and text.count("leads out of the folder") == 2
    assert "gone.png: cannot be read" in text
    data = open_split(root, "train", skip_unreadable=True)
    assert data.pool.paths == ("img/0.png",) and data.labels.tolist() == [0]


def test_links_out_of_the_root_are_refused(tmp_path):
    outside = make_features(tmp_path / "outside")
    (tmp_path / "in/train").mkdir(parents=True)
    (tmp_path / "in/train/features.npy").symlink_to(outside / "train/features.npy")
    (tmp_path / "in/train/labels.npy").symlink_to(outside / "train/labels.npy")
    assert "leads out of the folder" in message(open_split, tmp_path / "in", "train")
    make_folders(tmp_path / "far")
    (tmp_path / "near").mkdir()
    (tmp_path / "near/train").symlink_to(tmp_path / "far/train")
    assert "leads out of the folder" in message(open_split, tmp_path / "near", "train")


def test_unreadable_images_keep_labels_in_step(tmp_path):
    root = make_csv(tmp_path)
    (root / "img/1.png").write_bytes(b"no image")
    assert "1 of 4 images" in message(open_split, root, "train")
    data = open_split(root, "train", skip_unreadable=True)
    assert data.pool.paths == ("img/0.png", "img/2.png", "img/3.png")
    assert data.labels.tolist() == [2, 1, 0]


def test_missing_labels(tmp_path):
    root = make_csv(tmp_path, labels=("cat", "", "bee", "ant", "cat", "bee"))
    text = message(open_split, root, "train")
    assert "1 without: img/1.png" in text
    data = open_split(root, "train", missing_labels=True)
    assert data.labels.tolist() == [2, -1, 1, 0]
    counts = data.check()
    assert counts.pixels.tolist() == [1, 1, 1] and counts.void == 1
    assert counts.empty == {1: [(0, 0, 1, 1)]}
    counts = data.check(within={1: [(0, 0, 1, 1)], 2: [(0, 0, 1, 1)]})
    assert counts.pixels.tolist() == [0, 1, 0] and counts.empty == {1: [(0, 0, 1, 1)]}
    labelled = open_split(root, "train", only={"img/2.png", "img/0.png"})  # the others need none
    assert labelled.pool.paths == ("img/0.png", "img/2.png")
    chosen = open_split(root, "train", only=lambda folder, paths: paths[2:])
    assert chosen.labels.tolist() == [1, 0]
    assert "img/5.png" in message(open_split, root, "train", only={"img/5.png"})


def test_several_labels_an_image_in_a_table(tmp_path):
    root = make_images(tmp_path)
    head = ["path", "cat", "dog"]
    table(root / "train.csv", [head, ["img/1.png", 1, 0], ["img/0.png", 1, ""]])
    table(root / "test.csv", [head, ["img/2.png", 0, 1]])
    data = open_split(root, "train", multilabel=True)
    assert data.classes.names == ("cat", "dog")
    assert data.pool.size(0) == (2, 1) and data.pool.shape(0) == (16, 20)
    assert labels_of(data) == [[[1], [-1]], [[1], [0]]]
    counts = data.check()
    assert counts.pixels.tolist() == [2, 0] and counts.void == 1 and not counts.empty
    counts = data.check(within={0: [(0, 0, 1, 1), (0, 1, 1, 2)]})
    assert counts.pixels.tolist() == [1, 0] and counts.empty == {0: [(0, 1, 1, 2)]}
    assert ImageSet(data.pool, data).mask(0).shape == data.read_label(0).shape
    text = message(open_split, root, "train")
    assert "read with task: multilabel" in text
    table(root / "train.csv", [head, ["img/1.png", 2, "yes"]])
    assert "got: 2, yes" in message(open_split, root, "train", multilabel=True)
    table(root / "train.csv", [["path", "dog", "cat"], ["img/1.png", 1, 1]])
    assert "different columns" in message(open_split, root, "train", multilabel=True)
    table(root / "train.csv", [["path", "dog", "dog"], ["img/1.png", 1, 1]])
    assert "two columns" in message(open_split, root, "train", multilabel=True)
    table(root / "train.csv", [["img/1.png", 1, 1]])
    assert "no names of classes" in message(open_split, root, "train", multilabel=True)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, "U", "S", "column"])
def test_archives(tmp_path, kind):
    y = np.array([2, 0, 1, 0])
    written = (
        np.array(NAMES)[y].astype(kind)
        if kind in ("U", "S")
        else y[:, None]
        if kind == "column"
        else y.astype(kind)
    )
    file = make_npz(tmp_path / "a.npz", written, written[:2], NAMES)
    for root in (file, tmp_path):
        data = open_split(root, "train")
        assert data.labels.tolist() == y.tolist() and data.classes.names == NAMES
        assert data.labels.dtype == np.int32
        np.testing.assert_array_equal(data.pool.read(3), pictures(4)[3])
        assert list(data.pool.paths) == list(open_pool(tmp_path / "a.npz:x_train").paths)
    assert open_split(file, "test").labels.tolist() == [2, 0]
    assert data.subset([1, 2]).labels.tolist() == [0, 1]


def test_archives_with_names_as_medmnist_has_them(tmp_path):
    arrays = {}
    for i, split in enumerate(("train", "val", "test")):
        arrays[f"{split}_images"] = pictures(3, i)[..., 0]
        arrays[f"{split}_labels"] = np.array([[0], [1], [0]], np.uint8)
    np.savez_compressed(tmp_path / "med.npz", **arrays)
    assert splits(tmp_path) == ["test", "train", "val"]
    data = open_split(tmp_path, "val")
    assert data.labels.tolist() == [0, 1, 0] and data.pool.paths[0] == "val_images/000000"
    np.testing.assert_array_equal(data.pool.read(1)[..., 2], pictures(3, 1)[1, ..., 0])


def test_archives_without_splits(tmp_path):
    np.savez(tmp_path / "a.npz", images=pictures(60), labels=np.arange(60) % 3)
    parts = [open_split(tmp_path, split) for split in splits(tmp_path)]
    rows = np.concatenate([part.pool.rows for part in parts])
    assert sorted(rows.tolist()) == list(range(60))
    for part in parts:
        assert part.labels.tolist() == (part.pool.rows % 3).tolist()


def test_archives_that_are_wrong(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, x_train=pictures(3), y_train=np.arange(2))
    text = message(open_split, file, "train")
    assert (
        "x_train and y_train differ in length" in text and "3 labels" in text and "got: 2" in text
    )
    make_npz(file, (0, 1, 2, 5), names=NAMES)
    text = message(open_split, file, "train")
    assert "none of the 3 classes has" in text and "'5' of 1 images, such as x_train/000003" in text
    make_npz(file, (0.5, 1, 2, 1))
    assert "values that are no labels" in message(open_split, file, "train")
    make_npz(file, (-2, 1, 2, 1))
    assert "-2" in message(open_split, file, "train")
    make_npz(file, np.eye(3)[[0, 1]], np.eye(3)[[0]])
    assert "argmax" in message(open_split, file, "train")
    make_npz(file)
    assert "labels of another shape" in message(open_split, file, "train", multilabel=True)
    np.savez(file, x_train=pictures(3), y_train=np.arange(3), x_test=pictures(2))
    assert "x_test has no counterpart" in message(open_split, file, "train")
    np.savez(file, a=pictures(3), b=np.arange(3))
    text = message(open_split, file, "train")
    assert "got: a, b" in text and "x_train (N, H, W, 3) uint8" in text
    make_npz(file, classes=np.zeros((2, 2)))
    assert "no list of classes" in message(open_split, file, "train")
    np.savez(file, x_train=pictures(3).astype(float), y_train=np.arange(3))
    assert "pictures of another dtype" in message(open_split, file, "train")


def test_several_labels_an_image_in_an_archive(tmp_path):
    y, test = np.array([[1, 0], [-1, 1], [0, 0]]), np.array([[0, 1]])
    file = make_npz(tmp_path / "a.npz", y, test, ("cat", "dog"))
    data = open_split(file, "train", multilabel=True)
    assert data.pool.size(0) == (2, 1) and labels_of(data)[1] == [[-1], [1]]
    assert data.subset([2]).pool.size(0) == (2, 1)
    make_npz(file, y, test, NAMES)
    assert "not as many columns" in message(open_split, file, "train", multilabel=True)


@pytest.mark.parametrize("labels", ["npy", "csv", "csv with a name"])
def test_features(tmp_path, labels):
    root = make_features(tmp_path)
    make_features(root, (1, 0), split="val")
    (root / "classes.txt").write_text("\n".join(NAMES))
    if labels != "npy":
        (root / "train/labels.npy").unlink()
        rows = [["ant"], ["bee"], ["cat"], ["bee"]]
        table(root / "train/labels.csv", [["label"], *rows] if "name" in labels else rows)
    assert splits(root) == ["train", "val"]
    data = open_split(root, "train")
    assert data.labels.tolist() == [0, 1, 2, 1] and data.classes.names == NAMES
    assert data.pool.read(0).shape == (1, 1, 5) and data.pool.shape(0) == (1, 1)
    assert list(data.pool.paths) == list(open_pool(root / "train/features.npy").paths)


def test_features_that_are_wrong(tmp_path):
    root = make_features(tmp_path, count=3)
    text = message(open_split, root, "train")
    assert "features and labels differ in length" in text and "3 labels" in text
    table(root / "train/labels.csv", [["a"], ["b"]])
    assert "labels.npy and labels.csv" in message(open_split, root, "train")
    (root / "train/labels.npy").unlink()
    assert "got: 2 rows" in message(open_split, root, "train")
    (root / "train/labels.csv").unlink()
    assert "no labels" in message(open_split, root, "train")
    make_features(root)
    x = np.zeros((4, 5), np.float32)
    x[2, 2] = np.nan
    np.save(root / "train/features.npy", x)
    assert "NaN or infinity in 1 of 4 rows: 2" in message(open_split, root, "train")
    data = open_split(root, "train", skip_unreadable=True)
    assert data.labels.tolist() == [0, 1, 1] and data.pool.rows.tolist() == [0, 1, 3]
    np.save(root / "features.npy", x)
    assert "in folders of splits" in message(open_split, root, "train")


def test_features_without_splits_and_several_labels(tmp_path):
    make_features(tmp_path, (np.arange(120).reshape(40, 3) % 7 < 3).astype(int), split=".")
    parts = [open_split(tmp_path, split, multilabel=True) for split in splits(tmp_path)]
    assert sum(map(len, parts)) == 40 and parts[0].pool.size(0) == (3, 1)
    (tmp_path / "labels.npy").unlink()
    table(tmp_path / "labels.csv", [NAMES, *([[1, 0, ""]] * 40)])
    data = open_split(tmp_path, "train", multilabel=True)
    assert data.classes.names == NAMES and labels_of(data)[0] == [[1], [0], [-1]]


@pytest.mark.parametrize("make", [make_folders, lambda root: make_npz(root / "a.npz", [0, 1] * 5)])
def test_validation_is_cut_off_train(tmp_path, make):
    make(tmp_path)
    whole = open_split(tmp_path, "train")
    assert splits(tmp_path, validation_share=0.3) == ["test", "train", "val"]
    train = open_split(tmp_path, "train", validation_share=0.3)
    val = open_split(tmp_path, "val", validation_share=0.3)
    assert len(val) == 3 and len(train) == len(whole) - 3
    assert sorted([*train.pool.paths, *val.pool.paths]) == sorted(whole.pool.paths)
    labels = dict(zip(whole.pool.paths, whole.labels.tolist(), strict=True))
    for part in (train, val):
        assert [labels[path] for path in part.pool.paths] == part.labels.tolist()
    assert len(open_split(tmp_path, "test", validation_share=0.3)) == len(
        open_split(tmp_path, "test")
    )
    assert "leaves nothing" in message(open_split, tmp_path, "val", validation_share=0.01)
    assert "not a share" in message(open_split, tmp_path, "val", validation_share=1.0)


def test_the_same_picture_of_two_labels_is_told(tmp_path):
    root = make_folders(tmp_path)
    assert open_split(root, "train").notes() == []
    data = (root / "train/ant/0.png").read_bytes()
    (root / "train/cat/9.png").write_bytes(data)
    (root / "train/ant/9.png").write_bytes(data)
    (note,) = open_split(root, "train").notes()
    assert "1 pair of the same picture differ in label: ant/0.png and cat/9.png" in note


def test_layouts_are_told_or_asked_for(tmp_path):
    root = make_folders(tmp_path)
    assert layout_name("folders") == "folders"
    assert "one of auto, csv, features, folders, npz" in message(layout_name, "imagenet")
    (root / "notes.csv").write_text("a,b\n1,2\n")
    assert open_split(root, "train").pool.root == root / "train"  # that is no table of images
    table(root / "train.csv", [["train/ant/0.png", "x"], ["train/ant/1.png", "y"]])
    text = message(open_split, root, "train")
    assert "more than one layout" in text and "got: csv and folders" in text
    assert len(open_split(root, "train", layout="folders")) == 9
    assert len(open_split(root, "train", layout="csv")) == 2
    (tmp_path / "empty").mkdir()
    text = message(open_split, tmp_path / "empty", "train")
    assert "an empty folder" in text and text.count("classes.txt") == 4
    assert "got: nothing" in message(open_split, tmp_path / "gone", "train")
    assert "got: a file" in message(open_split, root / "train/ant/0.png", "train")
    loose = tmp_path / "flat"
    write(loose / "train" / "1.png")
    table(loose / "train.csv", [["train/1.png", "x"]])
    assert len(open_split(loose, "train")) == 1  # the table says more than the folder
