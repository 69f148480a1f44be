import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from segal.data.transforms import (
    TrainingTransform,
    draw_window,
    stack_images,
    stack_padded,
)
from segal.functional.labels import keep_regions


def made_pair(height=60, width=90, dtype=np.uint8):
    """An image whose red channel holds the label, so that geometry can be compared."""
    generator = np.random.default_rng(0)
    label = generator.integers(0, 11, (-(-height // 15), -(-width // 15)), dtype=np.uint8)
    label = np.kron(label, np.ones((15, 15), np.uint8))[:height, :width]
    image = np.stack([label * 20, label, label], -1)
    return (image if dtype == np.uint8 else image.astype(np.float32) / 255), label


def plain(**changes):
    return TrainingTransform(
        **{"crop": None, "scale": (1, 1), "flip": 0, "colour_jitter": 0, **changes}
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("crop", [None, (32, 32), (40, 128), (128, 40)])
def test_same_generator_same_bytes_in_any_thread(dtype, crop):
    transform = TrainingTransform(crop, colour_jitter=0.3)
    image, label = made_pair(dtype=dtype)

    def sample(seed):
        return transform(image, label, (30, 20, 50, 40), np.random.default_rng(seed))

    alone = [sample(seed) for seed in range(24)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(sample, range(24)))
    for (image_a, label_a), (image_b, label_b) in zip(alone, together, strict=True):
        assert image_a.dtype == dtype
        assert label_a.shape == (crop or (60, 90)) == image_a.shape[:2]
        np.testing.assert_array_equal(image_a, image_b)
        np.testing.assert_array_equal(label_a, label_b)
    assert len({image.tobytes() for image, _ in alone}) == 24


def test_image_and_label_move_together():
    image, label = made_pair()
    transform = plain(crop=(32, 40), flip=0.5)
    for seed in range(20):
        crop, crop_label = transform(image, label, (5, 5, 9, 9), np.random.default_rng(seed))
        np.testing.assert_array_equal(crop[..., 1], crop_label)


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.6, 2.0])
def test_resized_image_and_label_stay_aligned(factor):
    label = np.zeros((64, 64), np.uint8)
    label[16:48, 16:48] = 1
    image = np.repeat(label[..., None] * 200, 3, -1)
    transform = plain(crop=(64, 64), scale=(factor, factor))
    for seed in range(5):
        crop, crop_label = transform(image, label, (16, 16, 48, 48), np.random.default_rng(seed))
        red, inside = crop[..., 0].astype(int), crop_label != 255
        # A label is that of the pixel below its centre, which weighs half or more on each axis.
        assert (crop_label == 1)[inside & (red > 105)].all()
        assert (crop_label == 0)[inside & (red < 45)].all()
        shown = min(64, 32 * factor) ** 2
        assert (crop_label == 1).sum() == pytest.approx(shown, rel=0.1)


def test_no_change_is_the_identity():
    image, label = made_pair()
    for crop in (None, (60, 90)):
        out = plain(crop=crop)(image, label, (0, 0, 90, 60), np.random.default_rng(0))
        np.testing.assert_array_equal(out[0], image)
        np.testing.assert_array_equal(out[1], label)


def test_outside_the_image_is_reflected_and_ignored():
    image, label = made_pair(20, 30)
    crop, crop_label = plain(crop=(50, 80))(image, label, (0, 0, 30, 20), np.random.default_rng(1))
    assert (crop_label != 255).sum() == 20 * 30
    rows, columns = np.nonzero(crop_label != 255)
    np.testing.assert_array_equal(
        crop_label[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], label
    )
    assert set(np.unique(crop[..., 1])) <= set(np.unique(label))


def test_colours_change_and_labels_do_not():
    image, label = made_pair()
    out, out_label = plain(colour_jitter=0.5)(
        image, label, (0, 0, 90, 60), np.random.default_rng(0)
    )
    assert not np.array_equal(out, image)
    np.testing.assert_array_equal(out_label, label)


@st.composite
def windows(draw):
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    crop = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    return (height, width), crop, draw(st.floats(0.5, 2)), (x0, y0, x1, y1), draw(st.integers(0, 9))


@given(windows())
def test_window_holds_the_region_or_lies_in_it(case):
    image_size, crop, factor, region, seed = case
    window = draw_window(image_size, crop, factor, region, np.random.default_rng(seed))
    for axis in (0, 1):
        start, stop = window[axis], window[axis + 2]
        first, last = region[axis], region[axis + 2]
        length = image_size[1 - axis]
        assert stop - start == max(1, round(crop[1 - axis] / factor))
        # As much of the region as fits, and as much of the image.
        assert min(stop, last) - max(start, first) == min(stop - start, last - first)
        assert min(stop, length) - max(start, 0) == min(stop - start, length)


def test_window_is_placed_everywhere_that_holds_the_region():
    starts = {
        draw_window((10, 10), (10, 6), 1.0, (4, 0, 5, 1), np.random.default_rng(seed))[0]
        for seed in range(200)
    }
    assert starts == {0, 1, 2, 3, 4}


def test_keep_regions_copies():
    label = np.arange(48, dtype=np.uint8).reshape(6, 8)
    before = label.copy()
    kept = keep_regions(label, [(1, 2, 4, 5), (3, 4, 8, 6)])
    mask = np.zeros((6, 8), bool)
    mask[2:5, 1:4] = mask[4:6, 3:8] = True
    np.testing.assert_array_equal(kept, np.where(mask, label, 255))
    np.testing.assert_array_equal(label, before)


def test_stacks():
    eight_bit = np.full((4, 5, 3), 51, np.uint8)
    sixteen_bit = np.full((4, 5, 3), 0.5, np.float32)
    assert stack_images([eight_bit, eight_bit]).dtype == torch.uint8
    mixed = stack_images([eight_bit, sixteen_bit])
    assert mixed.dtype == torch.float32
    assert mixed[:, 0, 0, 0].tolist() == pytest.approx([0.2, 0.5])

    small = (np.full((2, 7, 3), 9, np.uint8), np.ones((2, 7), np.uint8))
    images, labels = stack_padded([small, (eight_bit, np.zeros((4, 5), np.uint8))])
    assert images.shape == (2, 4, 7, 3)
    assert (images[0] == 9).all()
    assert labels[0].tolist() == [[1] * 7] * 2 + [[255] * 7] * 2
    assert labels[1].tolist() == [[0] * 5 + [255] * 2] * 4


def test_flip_and_colours_are_drawn_apart():
    transform = TrainingTransform(scale=(1, 1), colour_jitter=0.2)
    label = np.tile(np.arange(24, dtype=np.uint8), (20, 1))
    image = np.repeat(label[..., None].astype(np.float32) / 48 + 0.25, 3, axis=2)
    means = {True: [], False: []}
    for seed in range(120):
        out, turned = transform(image, label, (0, 0, 24, 20), np.random.default_rng(seed))
        means[bool(turned[0, 0])].append(float(out.mean()))
    for found in means.values():  # each side is darker as often as it is brighter
        darker = np.mean(np.array(found) < image.mean())
        assert 0.3 < darker < 0.7, f"{darker} of {len(found)}"


def test_draws_are_distributed_as_promised():
    """Of 1,500 samples at one seed; each would fail by chance once in a thousand seeds."""
    transform = TrainingTransform(crop=(8, 8), scale=(0.5, 2), flip=0.3, colour_jitter=0.2)
    generator = np.random.default_rng(7)
    label = np.tile(np.arange(96, dtype=np.uint8), (64, 1))
    image = np.full((64, 96, 3), 0.5, np.float32)  # whose contrast and saturation cannot change
    turned, brightness = [], []
    for _ in range(1500):
        out, there = transform(image, label, (0, 0, 96, 64), generator)
        turned.append(there[0, -1] < there[0, 0])
        brightness.append(out[0, 0, 0] / 0.5)
    assert stats.binomtest(int(sum(turned)), 1500, 0.3).pvalue > 1e-3
    assert stats.kstest(brightness, stats.uniform(0.8, 0.4).cdf).pvalue > 1e-3
    starts = [draw_window((64, 96), (8, 8), 1, (0, 0, 96, 64), generator)[:2] for _ in range(1500)]
    for axis, places in ((0, 89), (1, 57)):
        counts = np.bincount([start[axis] for start in starts], minlength=places)
        assert len(counts) == places
        assert stats.chisquare(counts).pvalue > 1e-3


def test_albumentations_is_imported_late():
    code = "import sys, segal.data.transforms; sys.exit('albumentations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_of_other_channels_keep_them(channels, dtype):
    """Every channel is cut and resized as if it were alone; the jitter is the same for all."""
    values = np.random.default_rng(0).integers(0, 256, (50, 60, channels), dtype=np.uint8)
    image = values if dtype == np.uint8 else values.astype(np.float32) / 255
    label = np.zeros((50, 60), np.uint8)

    def transform(pixels, jitter):
        made = TrainingTransform((40, 64), scale=(0.6, 1.4), colour_jitter=jitter)
        return made(pixels, label, (5, 5, 30, 30), np.random.default_rng(3))[0]

    plain = transform(image, 0)
    assert plain.shape == (40, 64, channels)
    assert plain.dtype == dtype
    for channel in range(channels):
        alone = transform(image[..., channel : channel + 1], 0)
        np.testing.assert_allclose(plain[..., channel : channel + 1], alone, atol=1e-6)
    jittered = transform(image, 0.2)
    assert jittered.shape == plain.shape
    assert (jittered != plain).any()
    flat = transform(np.repeat(image[..., :1], max(channels, 2), 2), 0.2)
    assert np.abs(flat - flat[..., :1]).max() == 0
    batch = stack_images([jittered, plain])
    assert batch.shape == (2, 40, 64, channels)
