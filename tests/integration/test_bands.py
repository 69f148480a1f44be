"""Images of more bands than three, from training to pictures, through the command line."""

import json

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from segal.data.images import Reading
from segal.data.pool import open_pool
from segal.models.checkpoint import read_spec

FOUR = "tests.tiny_network:build_for_four_bands"
ARCH = f"model.architecture={FOUR}"
MEAN = STD = "0.5,0.5,0.5,0.5"
QUICK = (
    "train.iterations=60", "train.batch_size=2", "train.crop=64", "train.optimizer=adamw",
    "train.lr=0.02", "train.workers=0", "train.scale=1,1",
)  # fmt: skip


def write(root, order, top=10_000):
    """Scenes whose classes the fourth band alone can tell; bands are stored in some order."""
    for number, split in enumerate(("train", "train", "train", "train", "val", "val")):
        rng = np.random.default_rng(number)
        label = np.zeros((64, 96), np.uint8)
        label[:, rng.integers(20, 70) :] = 1
        noise = [cv2.resize(rng.random((9, 13)), (96, 64)) for _ in range(4)]
        bands = [noise[0], noise[1], noise[2], 0.8 * label + 0.2 * noise[3]]
        stored = np.stack([(top * bands[band]).astype(np.uint16) for band in order])
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(
            root / "images" / split / f"{number}.tif",
            stored,
            photometric="minisblack",
            planarconfig="separate",
            compression="zlib",
        )
        Image.fromarray(label).save(root / "labels" / split / f"{number}.png")
    (root / "classes.txt").write_text("left\nright\n")
    return root


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write(tmp_path_factory.mktemp("scenes"), [0, 1, 2, 3])


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    """A network of four inputs."""
    from typer.testing import CliRunner  # noqa: PLC0415

    from segal.cli import app  # noqa: PLC0415

    out = tmp_path_factory.mktemp("model")
    arguments = ("train", "--data", scenes, "--validation", "val", "--out", out, *QUICK)
    given = (
        "data.bands=all",
        "data.value_range=0,10000",
        f"model.mean={MEAN}",
        f"model.std={STD}",
        ARCH,
    )
    result = CliRunner().invoke(app, [str(a) for a in (*arguments, *given)])
    assert result.exit_code == 0, result.output
    return out / "model.safetensors"


def test_a_network_learns_from_a_fourth_band(trained):
    spec = read_spec(trained)
    assert spec.channels == 4
    metrics = json.loads((trained.parent / "metrics.json").read_text())
    assert metrics["validation"]["miou"] > 0.8  # from the other three bands no more than chance


@pytest.mark.parametrize("strategy", ["uwe", "vaal", "error_change"])
def test_bands_in_another_order_give_the_same_picks(segal, scenes, trained, tmp_path, strategy):
    """The same pixels, stored in reverse and chosen in reverse."""
    reverse = write(tmp_path / "reverse", [3, 2, 1, 0])
    seed = tmp_path / "seed.csv"
    seed.write_text("rank,image,x,y,width,height,pixels,score\n1,0.tif,0,0,32,32,1024,0\n")
    files = []
    for root, bands in ((scenes, "all"), (reverse, "4,3,2,1")):
        out = tmp_path / bands
        code, _, stderr = segal(
            "select", "--images", root / "images" / "train", "--checkpoint", trained, ARCH,
            "--region", 32, "--budget", 4, "--strategy", strategy, "--out", out, "--bands", bands,
            "--labelled", seed, "--reference", root, "value_range=0,10000", "--overlays", 0,
            *(("strategy.steps=3", "strategy.crops=20") if strategy == "vaal" else ()),
        )  # fmt: skip
        assert code == 0, stderr
        files.append((out / "selection.csv").read_bytes())
    assert files[0] == files[1]
    # Another choice of bands is another selection.
    code, _, stderr = segal(
        "select", "--images", reverse / "images" / "train", "--checkpoint", trained, ARCH,
        "--region", 32, "--budget", 4, "--strategy", strategy, "--out", out, "--bands", "1,2,3,4",
        "--labelled", seed, "--reference", reverse, "value_range=0,10000",
    )  # fmt: skip
    assert code == 2
    assert "bands" in stderr


def test_overlays_and_explanations_show_three_bands(segal, scenes, trained, tmp_path):
    given = (
        "--images", scenes / "images" / "train", "--checkpoint", trained, ARCH,
        "--bands", "2,4,1,3",
    )  # fmt: skip
    code, _, stderr = segal(
        "select", *given, "--region", 32, "--budget", 4, "--strategy", "random", "--out",
        tmp_path / "a",
    )  # fmt: skip
    assert code == 0, stderr
    code, _, stderr = segal(
        "explain", *given, "--reference", scenes, "--out", tmp_path / "b", "--count", 1
    )
    assert code == 0, stderr
    pool = open_pool(scenes / "images" / "train", reading=Reading(bands=(4,)))
    (sheet,) = (tmp_path / "b" / "pictures").glob("0001_0*.png")
    shown = cv2.imread(str(sheet))[..., ::-1]
    # The first panel: band 4 is its green, over its whole range though the values are dark.
    green = shown[..., 1].astype(int) - shown[..., 0]
    assert pool.read(0).max() < 0.2
    assert (green > 60).sum() > 2000
    overlays = sorted((tmp_path / "a" / "overlays").glob("*.png"))
    assert overlays
    assert cv2.imread(str(overlays[0]))[..., 1].max() == 255


def test_plan_takes_bands(segal, scenes, trained):
    code, stdout, stderr = segal(
        "plan", "--images", scenes / "images" / "train", "--checkpoint", trained, ARCH,
        "--bands", "all", "--region", 32, "--budget", 4,
    )  # fmt: skip
    assert code == 0, stderr
    assert "regions on offer" in stdout


def test_a_network_of_other_inputs_is_refused_before_work_starts(
    segal, scenes, trained, checkpoint, tmp_path
):
    train, out = scenes / "images" / "train", tmp_path / "out"
    select = ("select", "--images", train, "--region", 32, "--budget", 4, "--out", out)
    for network, bands, words in (
        (trained, "1,2,3", ("4 channels, which", "images of 3 channels", "bands: 1,2,3")),
        (checkpoint, "all", ("3 channels, which", "images of 4 channels", "bands: all")),
        (checkpoint, "1,2", ("3 channels, which", "images of 2 channels")),
    ):
        arch = (ARCH,) if network == trained else ()
        code, _, stderr = segal(*select, "--checkpoint", network, "--bands", bands, *arch)
        assert code == 2
        for word in (*words, "remedy", "model.mean"):
            assert word in " ".join(stderr.split()), stderr
    code, _, stderr = segal(*select, "--checkpoint", checkpoint)
    assert code == 2
    assert "--bands 1,2,3" in stderr
    assert "4 bands" in stderr
    code, _, stderr = segal(*select, "--strategy", "random", "--bands", "1,0")
    assert code == 2
    # No mean is made up for a fourth band.
    code, _, stderr = segal(
        "train", "--data", scenes, "--out", tmp_path / "model", "data.bands=1,2,3,4", *QUICK
    )
    assert code == 2
    assert "images of 4 channels" in " ".join(stderr.split())
    assert not (tmp_path / "model").exists()


def test_validate_takes_bands_and_pages(segal, scenes):
    code, _, stderr = segal("validate", scenes)
    assert code == 2
    assert "4 bands (MINISBLACK, planar), 16-bit unsigned, deflate compression" in " ".join(
        stderr.split()
    )
    code, _, stderr = segal("validate", scenes, "--bands", "4,3,2", "--page", 1)
    assert code == 0, stderr
    code, _, stderr = segal("validate", scenes, "--bands", "all", "--page", 2)
    assert code == 2
    assert "no page 2" in stderr
