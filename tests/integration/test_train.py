"""Training, validation and the demo through the command line."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from segal.jobs.demo import DemoSize, run_demo
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import load_checkpoint, read_spec, save_checkpoint
from segal.scenes.synthetic import make_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, splits={"train": 6, "val": 3, "test": 3}, size=(64, 128), seed=0)
    return root


EVALUATED = (*(7, 8, 11, 12, 13, 17, 19, 20, 21, 22), *range(23, 29), *(31, 32, 33))
"""Label ids of Cityscapes that are evaluated, in the order of the train ids."""


def iou_of_label_ids(model, root, split):
    """IoU by class the long way round: from the label files themselves, NaN where absent."""
    confusion = np.zeros((19, 19), np.int64)
    for path in sorted((root / "leftImg8bit" / split).rglob("*.png")):
        stem = path.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
        ids = cv2.imread(str(root / "gtFine" / split / path.parent.name / stem), -1)
        image = torch.from_numpy(cv2.imread(str(path))[None, ..., ::-1].copy())
        with torch.no_grad():
            found = model.eval()(model.normalise(image)).logits[0].argmax(0).numpy()
        for number, true in enumerate(EVALUATED):
            confusion[number] += np.bincount(found[ids == true], minlength=19)
    hits, union = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


QUICK = (
    "train.iterations=4", "train.batch_size=2", "train.crop=64", "train.optimizer=adamw",
    "train.lr=0.001", "train.workers=0",
)  # fmt: skip


def test_from_seed_set_to_second_selection(segal, scenes, tmp_path):
    images = scenes / "leftImg8bit" / "train"
    seed_set = tmp_path / "seed"
    assert segal(
        "select", "--images", images, "--region", 32, "--budget", "20%", "--strategy", "random",
        "--out", seed_set, "--overlays", 0,
    )[0] == 0  # fmt: skip
    call = (
        "train", "--data", scenes, "--labelled", seed_set / "selection.csv", "--validation", "val",
        "--test", "test", "--out", tmp_path / "model", *QUICK,
    )  # fmt: skip
    code, stdout, stderr = segal(*call)
    assert code == 0, stderr
    assert "mIoU on test" in stderr
    trained = tmp_path / "model" / "model.safetensors"
    assert stdout.strip() == str(trained)
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert 0 <= metrics["test"]["miou"] <= 1
    assert len(metrics["test"]["iou"]) == 19
    spec = read_spec(trained)
    assert spec is not None
    assert spec.class_names[0] == "road"
    iou = iou_of_label_ids(load_checkpoint(trained), scenes, "test")
    stored = [np.nan if value is None else value for value in metrics["test"]["iou"].values()]
    np.testing.assert_allclose(stored, iou, rtol=1e-6)
    code, _, stderr = segal(
        "select", "--images", images, "--checkpoint", trained, "--region", 32, "--budget", "10%",
        "--labelled", seed_set / "selection.csv", "--out", tmp_path / "second",
    )  # fmt: skip
    assert code == 0, stderr
    # The same command again does nothing again; with other settings it is refused.
    before = trained.stat().st_mtime_ns
    assert segal(*call)[0] == 0
    assert trained.stat().st_mtime_ns == before
    code, _, stderr = segal(*call, "train.lr=0.002")
    assert code == 2
    assert "train.lr" in stderr
    # A network goes on from another one's weights.
    code, _, stderr = segal(
        "train", "--data", scenes, "--checkpoint", trained, "--out", tmp_path / "on", *QUICK
    )
    assert code == 0, stderr
    for path in (seed_set, tmp_path / "second", tmp_path / "model"):
        code, stdout, stderr = segal("validate", path)
        assert code == 0, stderr
        assert "whole" in stdout


def test_images_of_which_nothing_is_bought_need_no_label(segal, scenes, tmp_path):
    """What a team has after its first selection: labels of some images, and no others."""
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    labelled = tmp_path / "labelled.csv"
    images = sorted((root / "leftImg8bit" / "train").rglob("*.png"))
    names = [p.relative_to(root / "leftImg8bit" / "train").as_posix() for p in images[:2]]
    rows = [f"{i + 1},{name},0,0,32,32,1024,1.0" for i, name in enumerate(names)]
    labelled.write_text("\n".join(["rank,image,x,y,width,height,pixels,score", *rows, ""]))
    for image in images[2:]:
        label = image.name.replace("_leftImg8bit", "_gtFine_labelIds")
        (root / "gtFine" / "train" / image.parent.name / label).unlink()
    call = ("train", "--data", root, "--out", tmp_path / "run", *QUICK)
    code, _, stderr = segal(*call)
    assert code == 2
    assert "has no label" in stderr
    code, _, stderr = segal(*call, "--labelled", labelled)
    assert code == 0, stderr
    labelled.write_text(labelled.read_text().replace(names[0], "nowhere.png"))
    code, _, stderr = segal(*call[:3], "--out", tmp_path / "other", "--labelled", labelled, *QUICK)
    assert code == 2
    assert "nowhere.png" in stderr
    assert "not of split 'train'" in stderr
    labelled.write_text(labelled.read_text().splitlines()[0] + "\n")
    code, _, stderr = segal(*call[:3], "--out", tmp_path / "other", "--labelled", labelled, *QUICK)
    assert code == 2
    assert "no region at all" in stderr


def test_the_same_seed_gives_the_same_network(segal, scenes, tmp_path):
    states = []
    for name in "ab":
        assert segal("train", "--data", scenes, "--out", tmp_path / name, *QUICK)[0] == 0
        states.append(load_checkpoint(tmp_path / name / "model.safetensors").state_dict())
    assert all(np.array_equal(states[0][k], states[1][k]) for k in states[0])


def test_mistakes_of_a_training_come_before_any_work(segal, scenes, tmp_path):
    def refused(*extra):
        code, _, stderr = segal("train", "--data", scenes, "--out", tmp_path / "run", *extra)
        assert code == 2, stderr
        assert "Traceback" not in stderr
        return stderr

    message = refused("train.lr=-1", "train.optimiser=sgd", "model.encoder_wieghts=x")
    for part in ("train.lr: ", "did you mean 'optimizer'?", "did you mean 'encoder_weights'?"):
        assert part in message
    assert "did you mean" in refused("--encoder", "resnet81", *QUICK)
    assert "did you mean" in refused("--arch", "DeepLabV3Plsu", *QUICK)
    assert "three different splits" in refused("--test", "train", *QUICK)
    assert "nosuch" in refused("--split", "nosuch", *QUICK)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_labels_that_do_not_fit_are_all_named(segal, scenes, tmp_path):
    folder = tmp_path / "plain"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(3):
            image = np.full((40, 60, 3), 50 * i + (split == "val"), np.uint8)
            cv2.imwrite(str(folder / "images" / split / f"{i}.png"), image)
            cv2.imwrite(str(folder / "labels" / split / f"{i}.png"), np.zeros((40, 60), np.uint8))
    (folder / "classes.txt").write_text("road\nsky\n")
    assert segal("validate", folder)[0] == 0
    cv2.imwrite(str(folder / "labels/train/1.png"), np.zeros((40, 59), np.uint8))
    cv2.imwrite(str(folder / "labels/val/2.png"), np.full((40, 60), 9, np.uint8))
    code, _, stderr = segal("validate", folder)
    assert code == 2
    for part in ("train/1.png", "val/2.png", "40 x 59", "9 (2400 pixels)"):
        assert part in stderr
    code, _, stderr = segal("train", "--data", folder, "--out", tmp_path / "run", *QUICK)
    assert code == 2
    assert "train/1.png" in stderr


NETWORK = """
import torch

class Half(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.head = torch.nn.Conv2d(4, num_classes, 1)

    def forward(self, images):
        low = self.head(self.norm(self.body(images)).relu())
        return torch.nn.functional.interpolate(
            low, images.shape[-2:], mode="bilinear", align_corners=False
        )

def make(num_classes):
    return Half(num_classes)
"""
OWN = ("--arch", "network_for_training:make")


@pytest.fixture
def plain(tmp_path, monkeypatch):
    """Three splits of four images in the plain layout, and an importable network."""
    (tmp_path / "network_for_training.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    rng = np.random.default_rng(0)
    folder = tmp_path / "plain"
    for split in ("train", "val", "test"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(4):
            image = rng.integers(0, 256, (40, 60, 3), np.uint8)
            write_picture(folder / "labels" / split / f"{i}.png", image[..., 0] // 128)
            write_picture(folder / "images" / split / f"{i}.png", image)
    (folder / "classes.txt").write_text("road\nsky\n")
    return folder


def write_picture(path, pixels):
    cv2.imwrite(str(path), pixels)


def test_only_labels_that_were_bought_are_read_and_they_are_inputs(segal, plain, tmp_path):
    labels = plain / "labels"
    assert segal(
        "select", "--images", plain / "images" / "train", "--region", 20, "--budget", 1,
        "--strategy", "random", "--out", tmp_path / "bought", "--overlays", 0,
    )[0] == 0  # fmt: skip
    selection = tmp_path / "bought" / "selection.csv"
    (bought,) = {path.name for path in (tmp_path / "bought" / "masks").rglob("*.png")}
    unlabelled = [path for path in (labels / "train").iterdir() if path.name != bought]
    assert len(unlabelled) == 3
    for path in unlabelled:
        path.write_bytes(b"no image")
    call = (
        "train", "--data", plain, "--labelled", selection, "--validation", "val", "--test", "test",
        "--out", tmp_path / "run", *OWN, *QUICK,
    )  # fmt: skip
    code, _, stderr = segal(*call)
    assert code == 0, stderr
    trained = tmp_path / "run" / "model.safetensors"
    before = trained.read_bytes()
    for path in unlabelled:
        path.write_bytes(b"another text")
    assert segal(*call)[0] == 0
    for changed in (labels / "train" / bought, labels / "val" / "2.png", labels / "test" / "3.png"):
        kept = changed.read_bytes()
        write_picture(changed, np.zeros((40, 60), np.uint8))
        code, _, stderr = segal(*call)
        assert code == 2
        assert "not the files that it began with" in stderr
        assert f": 1 changed ({changed.name})" in stderr
        changed.write_bytes(kept)
    assert segal(*call)[0] == 0
    assert trained.read_bytes() == before
    # Without a selection all labels are read.
    code, _, stderr = segal("train", "--data", plain, "--out", tmp_path / "all", *OWN, *QUICK)
    assert code == 2
    assert all(str(path) in stderr for path in unlabelled)


def test_networks_of_the_users_own_code(segal, plain, tmp_path):
    call = ("train", "--data", plain, "--test", "test", *QUICK)
    first = tmp_path / "first"
    code, _, stderr = segal(*call, *OWN, "--out", first)
    assert code == 0, stderr
    # The evaluation alone is done again.
    before = (first / "model.safetensors").stat().st_mtime_ns
    measured = json.loads((first / "metrics.json").read_text())["test"]
    (first / "metrics.json").unlink()
    code, _, stderr = segal(*call, *OWN, "--out", first)
    assert code == 0, stderr
    assert (first / "model.safetensors").stat().st_mtime_ns == before
    assert json.loads((first / "metrics.json").read_text())["test"] == measured
    # Another training starts from it, if the user names the code.
    start = ("--checkpoint", first / "model.safetensors")
    code, _, stderr = segal(*call, *start, "--out", tmp_path / "second")
    assert code == 2
    assert "give --arch if you trust that code" in stderr
    code, _, stderr = segal(*call, *start, *OWN, "--out", tmp_path / "second")
    assert code == 0, stderr
    (tmp_path / "second" / "metrics.json").unlink()
    assert segal(*call, *start, *OWN, "--out", tmp_path / "second")[0] == 0


def test_options_beside_a_checkpoint_count(segal, scenes, plain, tmp_path):
    call = ("train", "--data", plain, "--out", tmp_path / "run", *QUICK)
    path = tmp_path / "start.safetensors"
    save_checkpoint(build_model(make_spec(OWN[1], class_names=("road", "sky"))), path)

    def refused(*extra):
        code, _, stderr = segal(*call, "--checkpoint", path, *extra)
        assert code == 2, stderr
        return stderr

    assert "another architecture" in refused("--arch", "Unet")
    assert "no encoder" in refused(*OWN, "--encoder", "resnet34")
    assert "given twice" in refused(*OWN, "--encoder-weights", path)
    code, _, stderr = segal(
        "train", "--data", scenes, "--checkpoint", path, *OWN, "--out", tmp_path / "other", *QUICK
    )
    assert code == 2
    assert "labels of other classes than the network's" in stderr
    code, _, stderr = segal(
        *call, "--checkpoint", path, *OWN, "--input-scale", 0.5, "--mean", "0.1,0.2,0.3"
    )
    assert code == 0, stderr
    spec = read_spec(tmp_path / "run" / "model.safetensors")
    assert (spec.input_scale, spec.mean) == (0.5, (0.1, 0.2, 0.3))


def test_defaults_may_be_given_or_left_out(segal, scenes, tmp_path):
    call = ("train", "--data", scenes, "--out", tmp_path / "run", *QUICK)
    assert segal(*call)[0] == 0
    code, _, stderr = segal(*call, "--arch", "DeepLabV3Plus", "--input-scale", 1)
    assert code == 0, stderr
    assert segal(*call, "--encoder", "resnet34")[0] == 2
    resolved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]
    assert (resolved["architecture"], resolved["encoder"]) == ("DeepLabV3Plus", "resnet18")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_plain_state_dict_takes_the_classes_of_the_data_set(segal, plain, tmp_path, name):
    state = build_model(make_spec(OWN[1], class_names=("a", "b"))).network.state_dict()
    path = tmp_path / name
    call = ("train", "--data", plain, "--checkpoint", path, "--out", tmp_path / "run", *QUICK)
    for text in (None, "damaged"):
        if text is not None:
            path.write_text(text)
        code, _, stderr = segal(*call, *OWN)
        assert code == 2
        assert f"{path}: " in stderr
        assert "Traceback" not in stderr
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    code, _, stderr = segal(*call, *OWN)
    assert code == 0, stderr
    spec = read_spec(tmp_path / "run" / "model.safetensors")
    assert spec.class_names == ("road", "sky")


def test_a_split_without_a_labelled_pixel_has_no_miou(segal, plain, tmp_path):
    for path in (plain / "labels" / "test").iterdir():
        write_picture(path, np.full((40, 60), 255, np.uint8))
    code, _, stderr = segal(
        "train", "--data", plain, "--validation", "val", "--test", "test", *OWN, "--out",
        tmp_path / "run", *QUICK, "train.scale=0.5,2",
    )  # fmt: skip
    assert code == 0, stderr
    assert "mIoU on test: no labelled pixel" in stderr
    assert re.search(r"mIoU on validation: \d+\.\d\d %", stderr)
    metrics = json.loads(
        (tmp_path / "run" / "metrics.json").read_text(), parse_constant=pytest.fail
    )
    assert metrics["test"]["miou"] is metrics["test"]["accuracy"] is None


def test_validate_takes_whatever_it_is_given(segal, scenes, image_folder, checkpoint, tmp_path):
    code, stdout, _ = segal("validate", scenes)
    assert code == 0
    assert "train: 6 images" in stdout
    code, stdout, _ = segal("validate", image_folder)
    assert code == 0
    assert "7 images" in stdout
    config = tmp_path / "select.yaml"
    config.write_text("images: x\nout: y\nbudget: 5\nstrategy: {name: uwe, tau: -1}\n")
    code, _, stderr = segal("validate", config)
    assert code == 2
    assert "strategy.tau" in stderr
    config.write_text("images: x\nout: y\nbudget: 5\nstrategy: uwe\n")
    assert segal("validate", config)[0] == 0
    assert segal("validate", tmp_path / "nowhere")[0] == 2
    run = tmp_path / "run"
    assert segal(
        "select", "--images", image_folder, "--checkpoint", checkpoint, "--region", 32,
        "--budget", 4, "--out", run, "--overlays", 0,
    )[0] == 0  # fmt: skip
    (run / "selection.csv").write_text("spoilt")
    code, _, stderr = segal("validate", run)
    assert code == 2
    assert "selection.csv" in stderr


def test_strategies_for_people_and_programs(segal):
    code, stdout, _ = segal("strategies")
    assert code == 0
    assert "uwe" in stdout
    code, stdout, _ = segal("strategies", "--json")
    found = {entry["name"]: entry for entry in json.loads(stdout)}
    assert found["uwe"]["parameters"]["tau"] == 1.0
    assert found["entropy"]["direction"] == "higher"
    assert found["random"]["signals"] == []


@pytest.mark.slow
def test_the_demo_at_a_small_size(tmp_path):
    size = DemoSize(frames=8, height=64, first_iterations=3, iterations=2)
    report = run_demo(tmp_path / "demo", seed=0, size=size)
    for part in ("the seed set", "uwe", "random", "mIoU", "overlays", "masks"):
        assert part in report
    for line in report.splitlines():
        if line.startswith("  /"):
            path = line.split("  ")[1]
            assert (tmp_path / path).exists(), path
    assert run_demo(tmp_path / "demo", seed=0, size=size) == report
