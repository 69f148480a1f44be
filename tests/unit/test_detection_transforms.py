"""Training samples of images with boxes."""

import numpy as np
import pytest

from segal.tasks.detection.objects import Objects
from segal.tasks.detection.transforms import BoxTransform
from tests.boxed import COLOURS, SIZE, draw

WHOLE = (0, 0, SIZE[1], SIZE[0])


def alone(objects):
    """The objects that no other one overlaps."""
    b = objects.boxes
    apart = (b[:, None, :2] >= b[None, :, 2:]).any(2)
    kept = (apart | apart.T | np.eye(len(b), dtype=bool)).all(1)
    return Objects(b[kept], objects.classes[kept], objects.crowd[kept], objects.known)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("crop", [None, (48, 40)])
def test_boxes_go_with_their_pixels(seed, crop):
    image, objects = draw(seed)
    objects = alone(objects)
    transform = BoxTransform(crop, (0.6, 1.7), flip=0.5)
    for draws in range(4):
        shown, seen = transform(image, objects, WHOLE, np.random.default_rng(draws))
        assert shown.shape == ((*crop, 3) if crop else image.shape)
        assert seen.known == ((0, 0, shown.shape[1], shown.shape[0]),)
        assert (seen.boxes >= 0).all() and (seen.boxes[:, 2:] <= seen.known[0][2:]).all()
        for box, name in zip(seen.boxes, seen.classes, strict=True):
            x, y = ((box[:2] + box[2:]) / 2).astype(int)
            assert np.abs(shown[y, x].astype(int) - COLOURS[name]).max() < 40


def test_a_flip_keeps_fractions_of_pixels():
    image = np.zeros((10, 20, 3), np.uint8)
    one = Objects(np.array([[1.25, 2.5, 7.75, 9.0]]), np.zeros(1, int), np.zeros(1, bool),
                  ((0, 0, 20, 10),))  # fmt: skip
    _, seen = BoxTransform(flip=1.0)(image, one, (0, 0, 20, 10), np.random.default_rng(0))
    assert seen.boxes.tolist() == [[12.25, 2.5, 18.75, 9.0]]


def test_what_is_not_known_is_grey_and_its_objects_are_gone():
    image, objects = draw(1)
    tile = (0, 0, 48, 48)
    known = objects.keep([tile])
    shown, seen = BoxTransform((64, 96), (1.0, 1.0), flip=0.0)(
        image, known, tile, np.random.default_rng(0)
    )
    assert len(seen) == len(known)
    here = (shown != 114).any(2)
    assert here.sum() <= 48 * 48
    assert (shown[here] != 0).any()
    whole, _ = BoxTransform(flip=0.0)(image, known, tile, np.random.default_rng(0))
    assert (whole == image[:48, :48]).all()


def test_colours_change_and_boxes_do_not():
    image, objects = draw(2)
    plain, _ = BoxTransform(flip=0.0)(image, objects, WHOLE, np.random.default_rng(0))
    other, seen = BoxTransform(flip=0.0, colour_jitter=0.5)(
        image, objects, WHOLE, np.random.default_rng(0)
    )
    again, _ = BoxTransform(flip=0.0, colour_jitter=0.5)(
        image, objects, WHOLE, np.random.default_rng(0)
    )
    assert (plain != other).any() and (other == again).all()
    assert (seen.boxes == objects.boxes).all()
