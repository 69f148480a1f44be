"""Images that are read at a fraction of their size, and what networks are given of them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from segal.candidates.kept import INPUT, Kept
from segal.data.image_file import RGB, Reading
from segal.data.images import read_image
from segal.data.pool import open_pool
from segal.data.reduced import ReducedPool, read_reduced
from segal.errors import SegalError
from segal.models.build import build_model, make_spec
from segal.models.spec import Framing
from segal.models.wrapped import FEATURE_MAPS, FEATURES, PIXELS
from segal.scanning.workbench import seen

ORIENTATION = 0x0112


def smooth(height, width):
    """An image without detail, of which no two corners are alike."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def written(path, pixels, orientation=1, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


def means(image, factor):
    """Means of blocks from the top left, one by one; edges are repeated."""
    height, width = image.shape[:2]
    rows, columns = -(-height // factor), -(-width // factor)
    padded = np.pad(
        image.astype(np.float64),
        ((0, rows * factor - height), (0, columns * factor - width), (0, 0)),
        mode="edge",
    )
    found = np.zeros((rows, columns, image.shape[2]))
    for row in range(rows):
        for column in range(columns):
            block = padded[row * factor :, column * factor :][:factor, :factor]
            found[row, column] = block.mean((0, 1))
    return found


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_files_come_near_the_means_of_blocks_however_they_are_turned(tmp_path, orientation):
    quality = {"quality": 95, "subsampling": 0}
    for height, width in ((83, 101), (96, 64)):
        path = written(tmp_path / "a.jpg", smooth(height, width), orientation, **quality)
        whole = read_image(path)
        for factor in (2, 4, 8):
            found = read_reduced(path, RGB, factor, whole.shape[:2])
            expected = means(whole, factor)
            assert found.shape == expected.shape
            assert found.dtype == np.uint8
            # Blocks that start a pixel further on differ by several times that.
            assert np.abs(found - expected).mean() < 0.35 * factor


def test_only_jpeg_files_of_colours_are_decoded_at_that_size(tmp_path, monkeypatch):
    flags = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, how: flags.append(how) or decode(data, how))
    pixels = smooth(32, 48)
    path = written(tmp_path / "a.jpg", pixels)
    assert read_reduced(path, RGB, 4, (32, 48)).shape == (8, 12, 3)
    assert flags == [cv2.IMREAD_REDUCED_COLOR_4]
    for name, reading in (("a.png", RGB), ("a.jpg", Reading(bands=(3, 1)))):
        written(tmp_path / name, pixels)
        found = read_reduced(tmp_path / name, reading, 4, (32, 48))
        expected = means(read_image(tmp_path / name, reading), 4)
        assert np.abs(found - expected).max() <= 0.5
    assert flags[1] != cv2.IMREAD_REDUCED_COLOR_4


def test_16_bits_and_many_bands(tmp_path):
    rng = np.random.default_rng(1)
    deep = rng.integers(0, 65536, (33, 47), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    found = read_reduced(tmp_path / "a.png", RGB, 2, (33, 47))
    assert found.dtype == np.float32
    assert np.allclose(found, means(read_image(tmp_path / "a.png"), 2), atol=1e-6)


def test_a_file_that_changed_its_size_is_refused(tmp_path):
    path = written(tmp_path / "a.jpg", smooth(64, 64))
    with pytest.raises(SegalError, match="changed since it was inspected"):
        read_reduced(path, RGB, 2, (64, 67))


@pytest.mark.parametrize(
    ("scale", "factor"), [(1, 1), (0.51, 1), (0.5, 2), (0.3, 2), (0.25, 4), (0.13, 4), (0.1, 8)]
)
def test_by_how_much_images_may_be_smaller(scale, factor):
    spec = make_spec("DeepLabV3Plus", "mobilenet_v2", ["a", "b"], input_scale=scale)
    assert spec.reduction(720, 960) == factor
    assert spec.reduction(720, 960, gap=2) == max(1, factor // 2)


def ramp(height, width):
    """Pixels that rise evenly: every filter that is even leaves them as they are."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, rows + columns], -1)[None] / 1000.0


def blocks(image, factor):
    """Means of the blocks of a ramp that goes on beyond its end: its values at their centres."""
    sides = (-(-side // factor) for side in image.shape[1:3])
    return factor * ramp(*sides) + (factor - 1) / 2 * torch.tensor([1, 1, 2]) / 1000


def difference(model, height, width):
    """What a network is given for an image read at a fraction, less what it is given for it whole.

    Returns:
        (1, 3, rows, columns), in pixels of the image by which places differ.
    """
    image = ramp(height, width)
    factor = model.spec.reduction(height, width)
    assert factor > 1
    kept = Kept(INPUT, (blocks(image, factor),), (height, width))
    (found,) = model.normalise(kept).maps
    expected = model.prepared(model.normalise(image))
    assert found.shape == expected.shape
    return 1000 * (found - expected) * model.std


def check_places(off, scale):
    """The filters of torch sample their weights, so that a single pixel is off by a little."""
    for part in (off[..., -20:, :], off[..., -20:], off[..., :20, :], off[..., :20], off):
        assert part.mean((-1, -2)).abs().max() < 0.02 / scale
    assert off.abs().max() < 0.25 / scale


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return build_model(make_spec("DeepLabV3Plus", "mobilenet_v2", ["a", "b"])).eval()


@pytest.fixture(scope="module")
def classifier():
    spec = make_spec("torchvision:resnet18", "", ["a", "b"], task="classification")
    return build_model(spec).eval()


@pytest.mark.parametrize("scale", [0.5, 0.3, 0.25, 0.11])
@pytest.mark.parametrize("size", [(320, 480), (301, 417)])
def test_a_segmentation_network_is_given_the_same_places(segmenter, monkeypatch, scale, size):
    monkeypatch.setattr(segmenter, "spec", replace(segmenter.spec, input_scale=scale))
    off = difference(segmenter, *size)
    check_places(off[..., *(slice(3, int(side * scale) - 4) for side in size)], scale)


@pytest.mark.parametrize("bicubic", [False, True])
@pytest.mark.parametrize("squash", [False, True])
def test_a_classifier_is_given_the_same_places(classifier, monkeypatch, bicubic, squash):
    framing = Framing(48, 64, bicubic=bicubic, squash=squash)
    monkeypatch.setattr(classifier, "spec", replace(classifier.spec, framing=framing))
    check_places(difference(classifier, 301, 417), 64 / 301)


def test_a_pool_reads_batches_so_and_nothing_else(segmenter, tmp_path):
    for number, side in enumerate((64, 64, 20)):
        written(tmp_path / f"{number}.png", smooth(side, side))
    images = open_pool(tmp_path)
    pool = ReducedPool(images, lambda height, width: 4 if height > 32 else 1).subset([1, 0, 2])
    batch = pool.batch([0, 1])
    assert (batch.layers, batch.size, len(batch)) == (INPUT, (64, 64), 2)
    expected = means(images.read(1), 4)
    assert np.abs(batch.maps[0][0].numpy() - expected).max() <= 0.5
    assert torch.equal(pool.batch([2]), images.batch([2]))
    assert np.array_equal(pool.read(0), images.read(1))
    assert (pool.shape(0), pool.size(0), pool.unit) == ((64, 64), (64, 64), images.unit)
    assert seen(segmenter, pool, [FEATURES, FEATURE_MAPS, "last"]) is pool
    assert seen(segmenter, pool, [PIXELS]) is pool.images


def test_evidence_is_that_of_the_smaller_image(segmenter, monkeypatch, tmp_path):
    """Logits, features and tails of the whole network, in the image's own pixels."""
    whole = segmenter.spec
    monkeypatch.setattr(segmenter, "spec", replace(whole, input_scale=0.5))
    written(tmp_path / "a.png", smooth(64, 96))
    pool = ReducedPool(open_pool(tmp_path), segmenter.spec.reduction)
    with torch.no_grad():
        batch = pool.batch([0])
        found = segmenter(segmenter.normalise(batch), [FEATURES])
        segmenter.spec = whole
        small = segmenter(segmenter.normalise(batch.maps[0]), [FEATURES])
    assert found.logits.shape[-2:] == (64, 96)
    assert torch.equal(found.features, small.features)
    low = torch.nn.functional.avg_pool2d(found.logits, 2)
    assert torch.allclose(low, small.logits, atol=0.05 * float(small.logits.std()))
