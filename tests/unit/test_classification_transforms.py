from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from segal.tasks.classification.transforms import WholeImageTransform

LABEL = np.array([[3]], np.int32)
BOX = (0, 0, 1, 1)


def image(height=20, width=24, channels=3, dtype=np.uint8, seed=0):
    pixels = np.random.default_rng(seed).integers(1, 256, (height, width, channels), np.uint8)
    return pixels if dtype == np.uint8 else pixels.astype(np.float32) / 255


def draw(transform, pixels, seed=0):
    return transform(pixels, LABEL, BOX, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", ["crop", "resized_crop"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("jitter", [0, 0.3])
def test_same_generator_same_bytes_in_any_thread(kind, dtype, channels, jitter):
    transform = WholeImageTransform(kind, (16, 18), colour_jitter=jitter)
    pixels = image(channels=channels, dtype=dtype)
    alone = [draw(transform, pixels, seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda seed: draw(transform, pixels, seed), range(8)))
    for (one, label), (other, _) in zip(alone, together, strict=True):
        assert one.dtype == dtype and one.shape == (16, 18, channels) and label is LABEL
        np.testing.assert_array_equal(one, other)
    assert len({one.tobytes() for one, _ in alone}) > 1
    assert pixels.tobytes() == image(channels=channels, dtype=dtype).tobytes()


def test_crops_are_windows_of_the_padded_image():
    pixels, found = image(), set()
    padded = np.pad(pixels, ((2, 2), (2, 2), (0, 0)))
    windows = {
        side[y : y + 20, x : x + 24].tobytes(): (flip, y, x)
        for flip, side in enumerate((padded, padded[:, ::-1]))
        for y in range(5)
        for x in range(5)
    }
    transform = WholeImageTransform("crop", padding=2)
    for seed in range(300):
        found.add(windows[draw(transform, pixels, seed)[0].tobytes()])
    assert len(found) > 45  # of 50 windows
    unchanged = WholeImageTransform("crop", padding=0, flip=0)
    np.testing.assert_array_equal(draw(unchanged, pixels)[0], pixels)


def test_images_smaller_than_the_crop_are_padded():
    for kind in ("crop", "resized_crop"):
        got, _ = draw(WholeImageTransform(kind, (40, 32), padding=0, flip=0), image(16, 16))
        assert got.shape == (40, 32, 3)


def test_resized_crops_keep_to_their_share_of_the_area():
    ramp = np.broadcast_to(np.arange(96, dtype=np.float32)[:, None] / 96, (96, 96))
    pixels = np.ascontiguousarray(np.stack([ramp, ramp.T, ramp], -1))
    transform = WholeImageTransform("resized_crop", (32, 32), scale=(0.25, 0.5), flip=0)
    shares = []
    for seed in range(100):
        got, _ = draw(transform, pixels, seed)
        sides = [np.ptp(got[..., axis]) * 32 / 31 for axis in (0, 1)]
        shares.append(sides[0] * sides[1])
        assert 0.7 < sides[0] / sides[1] < 1.4
    assert 0.22 < min(shares) < 0.3 and 0.45 < max(shares) < 0.55


def test_nothing_happens_to_features():
    row = np.random.default_rng(0).normal(size=(1, 1, 7)).astype(np.float32)
    got, label = draw(WholeImageTransform("none", (32, 32)), row)
    np.testing.assert_array_equal(got, row)
    assert label is LABEL
