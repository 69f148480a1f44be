"""Labels through the command line: refused or told alike by all commands that read them."""

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file

from segal.candidates.selection import read_selection
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import read_spec, save_checkpoint

OWN = ("--arch", "tests.tiny_network:build")
QUICK = (
    "--iterations", 2, "--crop", 32, "--threads", 1, "train.batch_size=2", "train.workers=0",
)  # fmt: skip
SPLITS = {"train": 4, "val": 2}
SIZE = (40, 60)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


@pytest.fixture
def plain(tmp_path):
    """Two splits in the plain layout; label values are 0 and 1."""
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    for split, count in SPLITS.items():
        for i in range(count):
            image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
            write(root / "images" / split / f"{i}.png", image)
            write(root / "labels" / split / f"{i}.png", image[..., 0] // 128)
    (root / "classes.txt").write_text("road\nsky\n")
    return root


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "start.safetensors"
    save_checkpoint(build_model(make_spec(OWN[1], class_names=("road", "sky"))), path)
    return path


@pytest.fixture
def commands(plain, checkpoint, tmp_path):
    """All that read labels, each as it is called."""
    pool = plain / "images" / "train"
    return {
        "validate": ("validate", plain),
        "train": ("train", "--data", plain, *OWN, *QUICK, "--out", tmp_path / "train"),
        "run": (
            "run", "--data", plain, "data.test=val", "--seed-set", "2img", "--region", 20,
            "--budgets", "2", "--strategy", "random", "model.architecture=" + OWN[1],
            "train.iterations=2", "train.crop=32", "train.workers=0", "--threads", 1,
            "--out", tmp_path / "run",
        ),
        "select": (
            "select", "--images", pool, "--checkpoint", checkpoint, *OWN, "--strategy",
            "grad_similarity", "--reference", f"{plain}:val", "--region", 20, "--budget", 2,
            "--threads", 1, "--out", tmp_path / "select", "--overlays", 0,
        ),
        "explain": (
            "explain", "--images", pool, "--checkpoint", checkpoint, *OWN, "--reference",
            f"{plain}:val", "--out", tmp_path / "explain",
        ),
    }  # fmt: skip


def relabel(root, change):
    for path in root.glob("labels/*/*"):
        write(path, change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))


@pytest.mark.parametrize("command", ["validate", "train", "run", "select", "explain"])
def test_masks_of_0_and_255_are_refused_by_all(segal, plain, commands, command, tmp_path):
    relabel(plain, lambda label: label * 255)
    code, _, stderr = segal(*commands[command])
    assert code == 2, stderr
    assert "masks of 0 and 255" in stderr
    assert not (tmp_path / command).exists()
    # The remedy that the message gives.
    (plain / "classes.txt").write_text("0 road\n255 sky\n")
    code, stdout, stderr = segal(*commands[command])
    assert code == 0, stderr
    assert "the value 255 is the class 'sky'" in stdout + stderr


@pytest.mark.parametrize("command", ["train", "run", "select", "explain"])
def test_labels_that_are_void_everywhere_are_refused(segal, plain, commands, command, tmp_path):
    relabel(plain, lambda label: np.full_like(label, 255))
    code, _, stderr = segal(*commands[command])
    assert code == 2, stderr
    assert "has no labels" in stderr
    assert not (tmp_path / command).exists()


@pytest.mark.parametrize("command", ["train", "run"])
def test_a_mean_over_one_class_says_so(segal, plain, commands, command):
    relabel(plain, lambda label: label * 0)
    extra = ("--test", "val", "train.lr=1e-9") if command == "train" else ()
    code, _, stderr = segal(*commands[command], *extra)
    assert code == 0, stderr
    assert "1 of 2 classes have no pixel: sky" in stderr
    if "mIoU 100.00 %" in stderr or "mIoU on val: 100.00 %" in stderr:
        assert "100.00 % over 1 of 2 classes" in stderr


def test_validate_counts_pixels(segal, plain, commands):
    label = cv2.imread(str(plain / "labels/train/0.png"), cv2.IMREAD_UNCHANGED)
    label[:10] = 255
    write(plain / "labels/train/0.png", label)
    code, stdout, _ = segal(*commands["validate"])
    assert code == 0
    stack = np.stack([cv2.imread(str(p), -1) for p in (plain / "labels/train").iterdir()])
    for value, name in ((0, "road"), (1, "sky"), (255, "void")):
        assert f"{name:<4}  {int((stack == value).sum()):>15,} pixels" in stdout
    assert f"{100 * 600 / 9600:.2f} % of all pixels" in stdout


@pytest.mark.parametrize("command", ["validate", "train", "run"])
def test_how_values_are_read_is_told_once(segal, plain, commands, command):
    (plain / "classes.txt").write_text("0 road\n255 sky\n")
    relabel(plain, lambda values: values * 255)
    code, stdout, stderr = segal(*commands[command])
    assert code == 0, stderr
    assert (stdout + stderr).count("the value 255 is the class 'sky'") == 1


@pytest.mark.parametrize("command", ["train", "run", "select", "explain"])
def test_classes_in_another_order_are_refused(
    segal, plain, commands, command, checkpoint, tmp_path
):
    (plain / "classes.txt").write_text("sky\nroad\n")
    start = ("--checkpoint", checkpoint) if command in {"train", "run"} else ()
    code, _, stderr = segal(*commands[command], *start)
    assert code == 2, stderr
    for part in ("in another order", "as in the checkpoint: road, sky", "got: sky, road"):
        assert part in stderr
    assert not (tmp_path / command).exists()


@pytest.mark.parametrize("command", ["train", "run"])
def test_new_classes_take_the_place_of_others(
    segal, plain, commands, command, checkpoint, tmp_path
):
    (plain / "classes.txt").write_text("soil\nweed\n")
    call = (*commands[command], "--checkpoint", checkpoint)
    code, _, stderr = segal(*call)
    assert code == 2
    assert "--new-classes" in stderr
    code, _, stderr = segal(*call, "--new-classes")
    assert code == 0, stderr
    out = tmp_path / command
    made = out / "model.safetensors" if command == "train" else out / "rounds/001/model.safetensors"
    assert read_spec(made).class_names == ("soil", "weed")
    (plain / "classes.txt").write_text("soil\nweed\ncrop\n")
    code, _, stderr = segal(*call, "--new-classes", "out=" + str(tmp_path / "other"))
    assert code == 2
    assert "expected: 2 classes" in stderr


@pytest.fixture
def selection(segal, plain, tmp_path):
    """Eight regions of the pool."""
    code, _, stderr = segal(
        "select", "--images", plain / "images/train", "--region", 20, "--budget", 8,
        "--strategy", "random", "--out", tmp_path / "bought", "--overlays", 0,
    )  # fmt: skip
    assert code == 0, stderr
    return tmp_path / "bought" / "selection.csv"


def test_labels_that_have_not_come(segal, plain, selection, commands, tmp_path):
    bought = read_selection(selection)
    images = sorted({s.image for s in bought})
    blank, gone = images[:2]
    void = np.full(SIZE, 255, np.uint8)
    write(plain / "labels/train" / blank, void)
    (plain / "labels/train" / gone).unlink()
    owed = {(s.image, s.box) for s in bought if s.image in (blank, gone)}
    call = (*commands["train"], "--labelled", selection)
    code, _, stderr = segal(*call)
    assert code == 2
    assert f"no label has come for {len(owed)} of 8 regions" in stderr
    for image, (x0, y0, _, _) in owed:
        assert f"{image}: x {x0}, y {y0}" in stderr
    assert not (tmp_path / "train").exists()
    code, _, stderr = segal(*call, "--missing-labels", "skip")
    assert code == 0, stderr
    written = read_selection(tmp_path / "train" / "owed.csv")
    assert {(s.image, s.box) for s in written} == owed
    # What is owed is a selection like any other: nothing of it has come.
    owing = (*commands["train"][:-1], tmp_path / "b", "--labelled", tmp_path / "train" / "owed.csv")
    code, _, stderr = segal(*owing, "--missing-labels", "skip")
    assert code == 2
    assert "none for any of them" in stderr
    assert not (tmp_path / "b").exists()


def test_training_on_what_has_come_is_training_on_that_alone(
    segal, plain, selection, commands, tmp_path
):
    rows = selection.read_text().splitlines()
    bought = read_selection(selection)
    late = bought[0].image
    few = tmp_path / "few.csv"
    few.write_text("\n".join([rows[0], *(r for r in rows[1:] if f",{late}," not in r), ""]))
    call = commands["train"][:-1]
    assert segal(*call, tmp_path / "a", "--labelled", few)[0] == 0
    write(plain / "labels/train" / late, np.full(SIZE, 255, np.uint8))
    code, _, stderr = segal(
        *call, tmp_path / "b", "--labelled", selection, "--missing-labels", "skip"
    )
    assert code == 0, stderr
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_images_without_a_label_can_be_left_out(segal, plain, commands, tmp_path):
    (plain / "labels/train/2.png").unlink()
    code, _, stderr = segal(*commands["train"])
    assert code == 2
    assert "the image has no label" in stderr
    code, _, stderr = segal(*commands["train"], "--missing-labels", "skip")
    assert code == 0, stderr
    (owed,) = read_selection(tmp_path / "train" / "owed.csv")
    assert (owed.image, owed.box) == ("2.png", (0, 0, 60, 40))


def test_a_selection_pairs_with_the_lists_of_voc(segal, tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "VOC"
    for i in range(4):
        write(root / f"JPEGImages/{i:06d}.jpg", rng.integers(0, 256, (*SIZE, 3), np.uint8))
        write(root / f"SegmentationClass/{i:06d}.png", rng.integers(0, 21, SIZE, np.uint8))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"{i:06d}\n" for i in range(4)))
    (lists / "val.txt").write_text("000004\n")
    code, _, stderr = segal(
        "select", "--images", root / "JPEGImages", "--region", 20, "--budget", 3, "--strategy",
        "random", "--out", tmp_path / "bought", "--overlays", 0,
    )  # fmt: skip
    assert code == 0, stderr
    write(root / "JPEGImages/000004.jpg", rng.integers(0, 256, (*SIZE, 3), np.uint8))
    write(root / "SegmentationClass/000004.png", rng.integers(0, 21, SIZE, np.uint8))
    selection = tmp_path / "bought" / "selection.csv"
    call = ("train", "--data", root, "--labelled", selection, *OWN, *QUICK, "--out")
    code, _, stderr = segal(*call, tmp_path / "run")
    assert code == 0, stderr
    assert len(read_spec(tmp_path / "run" / "model.safetensors").class_names) == 21
    code, _, stderr = segal(*call, tmp_path / "other", "--split", "val")
    assert (code, "not of split 'val'" in stderr) == (2, True)
    code, stdout, _ = segal("validate", root)
    assert code == 0
    assert "train: 4 images" in stdout


def blank(root, regions):
    """Makes regions of the training split void."""
    for region in regions:
        path, (x0, y0, x1, y1) = root / "labels/train" / region.image, region.box
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        label[y0:y1, x0:x1] = 255
        write(path, label)


def test_labelled_regions_without_a_label_are_told_by_select(
    segal, plain, selection, commands, tmp_path
):
    bought = read_selection(selection)
    blank(plain, bought[:1])
    call = list(commands["select"])
    call[call.index("grad_similarity")] = "isal"
    call += ["--labelled", selection, f"training.root={plain}", "training.split=train"]
    code, _, stderr = segal(*call)
    assert code == 0, stderr
    x0, y0, _, _ = bought[0].box
    assert f"without any label: {bought[0].image} at x {x0}, y {y0}" in stderr
    blank(plain, bought)
    call[call.index(tmp_path / "select")] = tmp_path / "again"
    code, _, stderr = segal(*call)
    assert code == 2
    assert "none for any of them" in stderr
