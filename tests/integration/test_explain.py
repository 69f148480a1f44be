"""`segal explain`: maps against autograd, and pictures that show what is in them."""

import json

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segal.models.checkpoint import load_checkpoint
from segal.pictures.explained import Legend, Panels, draw_explanation
from tests.conftest import CLASSES, write_image

SIZES = [(50, 80), (64, 96)]


@pytest.fixture
def reference(tmp_path):
    """A data set of two splits, of the network's classes; a part of the labels is void."""
    root = tmp_path / "reference"
    (root / "images").mkdir(parents=True)
    for offset, split in ((0, "val"), (10, "test")):
        for i, (height, width) in enumerate(SIZES):
            write_image(root / "images" / split / f"{i}.png", height, width, 100 + offset + i)
            rng = np.random.default_rng(i + offset)
            label = rng.integers(0, len(CLASSES), (height, width), dtype=np.uint8)
            label[5:20, 10:40] = 255
            (root / "labels" / split).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "labels" / split / f"{i}.png"), label)
    (root / "classes.txt").write_text("\n".join(f"{i} {c}" for i, c in enumerate(CLASSES)))
    return root


@pytest.fixture
def explain(segal, image_folder, checkpoint, reference):
    def run(out, *extra, reference=reference):
        given = ("--images", image_folder, "--checkpoint", checkpoint, "--out", out)
        return segal("explain", *given, "--reference", reference, *extra)

    return run


def read_rgb(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def network_input(model, path):
    return model.normalise(torch.from_numpy(read_rgb(path))[None])


def gradient(loss, parameters):
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)]
    )


def reference_gradient(model, parameters, reference, split="val"):
    """Of the mean loss over every labelled pixel, and the pixels' number."""
    total, pixels = 0.0, 0
    for i in range(len(SIZES)):
        label = cv2.imread(str(reference / "labels" / split / f"{i}.png"), cv2.IMREAD_UNCHANGED)
        logits = model(network_input(model, reference / "images" / split / f"{i}.png")).logits
        target = torch.from_numpy(label)[None].long()
        loss = F.cross_entropy(logits, target, ignore_index=255, reduction="sum")
        total = total + gradient(loss, parameters).double()
        pixels += int((target != 255).sum())
    return total / pixels


def check_map(model, parameters, vector, path, score):
    """A map is minus <gradient of the pixel's own loss, vector>."""
    logits = model(network_input(model, path)).logits
    losses = F.cross_entropy(logits, logits.argmax(1), reduction="none")[0]
    assert score.dtype == np.float32
    assert score.shape == losses.shape
    for y, x in ((0, 0), (17, 33), (losses.shape[0] - 1, losses.shape[1] - 1)):
        expected = -float(gradient(losses[y, x], parameters).double() @ vector)
        assert score[y, x] == pytest.approx(
            expected, rel=1e-3, abs=1e-4 * float(np.abs(score).max())
        )


@pytest.mark.parametrize(
    ("layers", "split"),
    [
        (None, None),
        ("last", "test"),
        pytest.param("decoder.block2.0", None, marks=pytest.mark.slow),
    ],
)
def test_error_change_is_what_autograd_says(
    explain, image_folder, checkpoint, reference, tmp_path, layers, split
):
    extra = [] if layers is None else ["--layers", layers]
    named = reference if split is None else f"{reference}:{split}"
    code, stdout, stderr = explain(tmp_path / "out", "--raw", "--count", 2, *extra, reference=named)
    assert code == 0, stderr
    assert stdout.strip() == str(tmp_path / "out")
    model = load_checkpoint(checkpoint)
    network = model.network
    parameters = list(network.segmentation_head.parameters())
    if layers is None:
        parameters.append(network.decoder.block2[0][1].weight)
    elif layers != "last":
        parameters += network.decoder.block2.parameters()
    vector = reference_gradient(model, parameters, reference, split or "val")
    summary = json.loads((tmp_path / "out" / "explain.json").read_text())
    images = summary["images"]
    assert [shown["image"] for shown in images] == ["a/frame 0.png", "a/frame 6.png"]
    for shown in images:
        stem = shown["picture"].removesuffix(".png")
        score = np.load(tmp_path / "out" / "maps" / f"{stem}.error_change.npy")
        check_map(model, parameters, vector, image_folder / shown["image"], score)
        assert shown["mean"] == pytest.approx(score.mean(dtype=np.float64))
        assert shown["hurting"] == (score > 0).mean()
        entropy = np.load(tmp_path / "out" / "maps" / f"{stem}.entropy.npy")
        assert entropy.shape == score.shape
        assert 0 <= entropy.min() <= entropy.max() <= np.log(len(CLASSES)) + 1e-5


@pytest.mark.parametrize("labelled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_influence_is_what_autograd_says(
    explain, image_folder, checkpoint, reference, tmp_path, labelled
):
    """With as much damping, H hardly counts: the map is the error change, divided by it."""
    extra = ["--score", "influence", "--raw", "--count", 1, "damping=1e6"]
    if labelled:
        selection = tmp_path / "selection.csv"
        selection.write_text(
            "rank,image,x,y,width,height,pixels,score\n1,a/frame 0.png,0,0,32,32,1024,0\n"
        )
        extra += ["--labelled", selection]
    code, _, stderr = explain(tmp_path / "out", *extra)
    assert code == 0, stderr
    assert ("Hessian is taken on the reference set" in stderr.replace("\n", " ")) != labelled
    model = load_checkpoint(checkpoint)
    parameters = list(model.network.segmentation_head.parameters())
    vector = reference_gradient(model, parameters, reference) / 1e6
    summary = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert ("labelled" in summary["direction"]) == labelled
    shown = summary["images"][0]
    stem = shown["picture"].removesuffix(".png")
    score = np.load(tmp_path / "out" / "maps" / f"{stem}.influence.npy")
    check_map(model, parameters, vector, image_folder / shown["image"], score)


def test_labelled_images_that_left_are_told(explain, image_folder, tmp_path):
    selection = tmp_path / "selection.csv"
    selection.write_text(
        "image,x,y,width,height\na/frame 0.png,0,0,32,32\na/frame 99.png,0,0,32,32\n"
    )
    given = ("--score", "influence", "--count", 1, "--labelled", selection)
    code, _, stderr = explain(tmp_path / "out", *given)
    assert code == 2
    assert "frame 99" in stderr
    code, _, stderr = explain(tmp_path / "out", *given, "skip_missing=true")
    assert code == 0, stderr
    assert "Left out 1 labelled region of images that are not there" in stderr.replace("\n", " ")


def test_same_pictures_however_it_is_run(explain, tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for out, extra in zip(
        folders, (["--workers", 0], ["--workers", 3], ["--batch-size", 3]), strict=True
    ):
        assert explain(out, "--raw", "--layers", "last", "--count", 2, *extra)[0] == 0
    first, second, third = (sorted((out / "pictures").iterdir()) for out in folders)
    assert len(first) == 2
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert [p.name for p in first] == [p.name for p in third]
    for one, other in zip(
        *(sorted((f / "maps").iterdir()) for f in (folders[0], folders[2])), strict=True
    ):
        a, b = np.load(one), np.load(other)
        assert np.allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max())


def test_every_image_without_raw_maps(explain, image_folder, tmp_path):
    (tmp_path / "out" / "maps").mkdir(parents=True)  # of an earlier run
    assert explain(tmp_path / "out", "--layers", "last")[0] == 0
    summary = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert [shown["image"] for shown in summary["images"]] == sorted(
        (str(p.relative_to(image_folder)) for p in image_folder.rglob("*.png")), key=str.encode
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["explain.json", "pictures"]
    pictures = [shown["picture"] for shown in summary["images"]]
    assert [p.name for p in sorted((tmp_path / "out" / "pictures").iterdir())] == pictures


def test_a_reference_that_cannot_serve(explain, image_folder, reference, tmp_path):
    out = tmp_path / "out"
    code, _, stderr = explain(out, reference=f"{reference}:train")
    assert (code, "train" in stderr) == (2, True)
    code, _, stderr = explain(out, reference=tmp_path / "nowhere")
    assert (code, "nowhere" in stderr) == (2, True)

    shared = reference / "images" / "val" / "0.png"
    saved, saved_label = shared.read_bytes(), (reference / "labels" / "val" / "0.png").read_bytes()
    shared.write_bytes((image_folder / "b" / "frame 5.png").read_bytes())
    code, _, stderr = explain(out)
    assert code == 2
    assert "shares images with the pool" in stderr
    assert "0.png" in stderr
    shared.write_bytes(saved)

    for i, (height, width) in enumerate(SIZES):
        void = np.full((height, width), 255, np.uint8)
        cv2.imwrite(str(reference / "labels" / "val" / f"{i}.png"), void)
    code, _, stderr = explain(out)
    assert (code, "cannot be measured on" in stderr) == (2, True)
    (reference / "labels" / "val" / "0.png").write_bytes(saved_label)

    (reference / "classes.txt").write_text("\n".join(f"{i} class{i}" for i in range(7)))
    code, _, stderr = explain(out)
    assert code == 2
    assert "labels of other classes than the network's" in stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--score", "entropy"], "error_change"),
        (["--layers", "decoder.block3"], "did you mean 'decoder.block"),
        (["--count", 0], "count"),
        (["damping=-1"], "damping"),
        (["reference.layuot=folder"], "layuot"),
    ],
)
def test_mistakes(explain, tmp_path, extra, message):
    code, stdout, stderr = explain(tmp_path / "out", *extra)
    assert (code, stdout) == (2, "")
    assert message in stderr
    assert "Traceback" not in stderr


def test_out_is_not_among_the_images(explain, image_folder):
    code, _, stderr = explain(image_folder / "out")
    assert (code, "within the folder of images" in stderr) == (2, True)


def test_general_layers_are_noted_once(segal, image_folder, checkpoint, reference, tmp_path):
    code, _, stderr = segal(
        *(
            "explain",
            "--images",
            image_folder,
            "--checkpoint",
            checkpoint,
            "--reference",
            reference,
        ),
        *("--layers", "decoder.block2", "--out", tmp_path / "out", "--count", 1),
    )
    assert code == 0, stderr
    assert " ".join(stderr.split()).count("take the general route") == 1


def panels(score, height=60, width=80):
    image = np.full((height, width, 3), 128, np.uint8)
    prediction = np.zeros((height, width), np.uint8)
    prediction[:, width // 2 :] = 2
    entropy = np.zeros((height, width), np.float32)
    return Panels.of(image, prediction, entropy, np.full((height, width), score, np.float32))


PALETTE = np.array([[230, 0, 0], [0, 230, 0], [0, 0, 230]], np.uint8)


@pytest.mark.parametrize("size", [(60, 80), (100, 700), (700, 100), (3, 5), (1024, 2048)])
def test_pictures_of_any_shape_fit_a_screen(size):
    legend = Legend(("a", "$b$", "c" * 99), PALETTE, "score", 1.0, 2.0)
    drawn = draw_explanation(panels(0.5, *size), legend, "x" * 500, "y" * 500)
    assert drawn.dtype == np.uint8
    assert 400 <= drawn.shape[1] <= 1500
    assert drawn.shape[0] <= 1100


def test_colours_say_what_they_mean():
    legend = Legend(("a", "b", "c"), PALETTE, "score", 1.0, 2.0)
    drawn = {v: draw_explanation(panels(v), legend, "", "").astype(int) for v in (-9, -1, 0, 1, 9)}
    height, width = drawn[0].shape[:2]
    spots = {v: d[int(height * 0.75), int(width * 0.65)] for v, d in drawn.items()}
    assert (spots[0] > 240).all(), "nothing is neither red nor blue"
    assert spots[1][0] > spots[1][2] + 50
    assert spots[-1][2] > spots[-1][0] + 50
    assert spots[9].sum() < spots[1].sum()
    prediction = drawn[0][int(height * 0.3)]
    left, right = prediction[int(width * 0.55)], prediction[int(width * 0.8)]
    assert left.argmax() == 0
    assert right.argmax() == 2


def test_validate_knows_its_configuration(segal, tmp_path):
    config = tmp_path / "explain.yaml"
    config.write_text("images: a\ncheckpoint: b\nreference: {root: c}\nout: d\nscore: influence\n")
    code, out, _ = segal("validate", config)
    assert code == 0
    assert "a configuration of segal explain, without mistakes" in out
    config.write_text(config.read_text().replace("influence", "fame") + "damping: -1\n")
    code, _, err = segal("validate", config)
    assert code == 2
    assert "score: " in err
    assert "damping: " in err


def test_validate_takes_a_selection_with_a_reference_set_for_what_it_is(segal, tmp_path):
    config = tmp_path / "select.yaml"
    config.write_text("images: a\ncheckpoint: b\nreference: {root: c}\nstrategy: isal\nout: d\n")
    code, _, err = segal("validate", config)
    assert code == 2
    assert "budget: missing" in err
    assert "strategy: " not in err


def test_a_folder_as_the_networks_name(segal, image_folder, reference, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], decoder_hidden_size=16, depths=[1] * 4
    )
    config.id2label = dict(enumerate(CLASSES))
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "folder")
    given = ("explain", "--images", image_folder, "--reference", reference, "--layers", "last")
    for name, network in {
        "checkpoint": ("--checkpoint", tmp_path / "folder"),
        "arch": ("--arch", f"hf:{tmp_path / 'folder'}"),
    }.items():
        code, _, said = segal(*given, *network, "--out", tmp_path / name, "--count", 1)
        assert code == 0, said
        assert "normalised with mean 0.485" in " ".join(said.split())
    one, other = (
        json.loads((tmp_path / name / "explain.json").read_text())["images"]
        for name in ("checkpoint", "arch")
    )
    assert one == other
    code, _, said = segal(*given, "--out", tmp_path / "none")
    assert code == 2
    assert "checkpoint: missing" in said
