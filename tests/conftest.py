"""What the tests share: small images on disk, and a small network."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import cv2
import numpy as np
import pytest
import torch

from segal.cli import main
from segal.models import noise
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint

CLASSES = ("road", "building", "sky", "car", "tree")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two cores serve all tests; more threads than cores are many times slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def small_noise():
    """Networks are traced on noise of 64 pixels where they take it: a twelfth of the work.

    Processes that a test starts trace on that of 224, as users do.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "_SIDES", (64, *noise._SIDES))
        yield


def write_image(path, height, width, seed):
    """Blobs of colour, so that neighbouring regions differ."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    return image[..., ::-1]


@pytest.fixture
def image_folder(tmp_path):
    """Seven images in two folders, of three sizes, none of which a region divides."""
    folder = tmp_path / "images"
    sizes = [(70, 101), (70, 101), (64, 96), (64, 96), (64, 96), (50, 80), (70, 101)]
    for i, (height, width) in enumerate(sizes):
        write_image(folder / "ab"[i % 2] / f"frame {i}.png", height, width, i)
    return folder


@pytest.fixture(scope="session")
def model():
    """A DeepLabV3+ with random weights."""
    torch.manual_seed(0)
    return build_model(make_spec("DeepLabV3Plus", "resnet18", CLASSES)).eval()


@pytest.fixture(scope="session")
def checkpoint(model, tmp_path_factory):
    """The same network as a file."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_checkpoint(model, path)
    return path


@pytest.fixture
def segal(monkeypatch, capsys):
    """Runs the command line in this process: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["segal", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
