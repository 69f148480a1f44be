"""What each task shows of an image: as people see it, and as the network does."""

import numpy as np
import pytest
import torch

from segal.data.layout import distinct_colours
from segal.models.build import build_model, make_spec
from segal.signals import Value
from segal.tasks import find_task
from segal.tasks.drawing import Drawn
from tests.boxed import make_set
from tests.classified import CLASSES, write_picture
from tests.conftest import write_image
from tests.tiny_detectors import build

_NETWORK = "tests.tiny_network:build"


def _look(task, folder, model, **more):
    pool = find_task(task).open_pool(folder)
    drawn = Drawn(pool, model, Value("entropy"), {}, "fp32", **more)
    return find_task(task).look(drawn, 0)


def test_pixels(tmp_path):
    pixels = write_image(tmp_path / "a.png", 40, 56, seed=1)
    names = ("road", "sky", "car")
    model = build_model(make_spec(_NETWORK, "resnet18", names)).eval()
    look = _look("segmentation", tmp_path, model, excluded={"a.png": ((0, 0, 8, 8),)})
    with torch.inference_mode():
        images = torch.from_numpy(pixels.copy())[None]
        logits = model(model.normalise(images)).logits[0].double()
    shares = logits.softmax(0)
    entropy = -(shares * shares.log()).sum(0).numpy()
    entropy[:8, :8] = 0
    np.testing.assert_allclose(look.uncertainty, entropy, atol=1e-5)
    np.testing.assert_array_equal(look.image[8:], pixels[8:])
    assert (look.image[:8, :8] == 128).all()
    classes = logits.argmax(0).numpy()
    colours = distinct_colours(3)
    y, x = 20, 30
    mixed = 0.65 * colours[classes[y, x]] + 0.35 * look.image[y, x].mean()
    np.testing.assert_allclose(look.predicted[y, x], mixed, atol=0.51)
    assert [name for name, _ in look.legend] == [names[c] for c in np.unique(classes)]
    plain = _look("segmentation", tmp_path, None)
    assert (plain.uncertainty, plain.predicted, list(plain.legend)) == (None, None, [])
    np.testing.assert_array_equal(plain.image, pixels)


def test_whole_images(tmp_path):
    write_picture(tmp_path / "a.png", np.full((16, 16, 3), 90, np.uint8))
    spec = make_spec("tests.tiny_classifier:build", "", CLASSES, task="classification")
    look = _look("classification", tmp_path, build_model(spec).eval())
    assert look.predicted is None
    assert look.image.shape == (16, 16, 3)
    assert look.said[0].split()[0] in CLASSES
    assert 0 < float(look.said[0].split()[1]) <= 1


@pytest.mark.parametrize("network", [True, False])
def test_boxes(tmp_path, network):
    root = make_set(tmp_path, "yolo", {"train": 1})
    folder = next(p.parent for p in root.rglob("*.png"))
    model = build("fcos") if network else None
    look = _look("detection", folder, model)
    assert look.image.shape == (64, 96, 3)
    if not network:
        assert look.predicted is None
        return
    assert "found, and" in look.said[0]
    found = int(look.said[0].split()[0])
    assert (look.predicted != look.image).any() == (found > 0)
    assert bool(look.legend) == (found > 0)
