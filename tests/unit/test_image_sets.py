"""Sets of images: which pixels they hold, and what a trial takes of them."""

import pytest

from segal.data.image_sets import ImageSet
from tests.float64_network import SIZES, Labels, make_pool


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_pool(tmp_path_factory.mktemp("images"))


def test_overlapping_boxes_count_once_and_what_is_outside_wins(images):
    boxes = [(0, 0, 10, 10), (5, 5, 15, 15), (0, 0, 10, 10)]
    found = ImageSet(images, inside={0: boxes}, outside={0: [(0, 0, 5, 5)]})
    assert int(found.mask(0).sum()) == 100 + 100 - 25 - 25
    assert found.indices() == [0]


def test_a_trial_goes_over_images_that_have_a_pixel_of_the_set(images):
    height, width = SIZES[0]
    bought = ImageSet(images, outside={0: [(0, 0, width, height)]})
    assert bought.first(1).indices() == [1]
    labels = Labels()
    labels.maps[0][:20, :20] = 255
    boxes = {0: [(0, 0, 20, 20)], 1: [(0, 0, 9, 9)], 2: [(3, 3, 9, 9)]}
    labelled = ImageSet(images, labels, inside=boxes)
    first = labelled.first(1)
    assert first.indices() == [1]
    assert (first.label(1) == labelled.label(1)).all()
    assert first.tried_for == 3
    assert labelled.first(5).indices() == [1, 2]
    assert labelled.tried_for == 0
