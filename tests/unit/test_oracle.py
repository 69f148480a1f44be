"""The oracle reveals labels where they are bought, and nowhere else."""

import cv2
import numpy as np
import pytest

from segal.data.datasets import open_dataset
from segal.errors import SegalError
from segal.functional.clicks import polygon_clicks
from segal.runs.oracle import Oracle
from segal.scenes.synthetic import make_scenes
from segal.tasks.segmentation.task import Segmentation


@pytest.fixture
def dataset(tmp_path):
    make_scenes(tmp_path, splits={"train": 3}, size=(64, 128), seed=0)
    return open_dataset(tmp_path, "train")


def oracle_of(dataset):
    return Oracle(dataset, Segmentation())


def test_labels_are_revealed_within_what_is_bought(dataset):
    first, second, _ = dataset.pool.paths
    revealed = oracle_of(dataset).reveal({second: [(0, 0, 16, 16), (100, 50, 128, 64)]})
    whole = dataset.read_label(1)
    seen = revealed.read_label(1)
    inside = np.zeros((64, 128), bool)
    inside[:16, :16] = inside[50:, 100:] = True
    assert np.array_equal(seen[inside], whole[inside])
    assert (seen[~inside] == 255).all()
    assert (whole[~inside] != 255).any()
    assert (revealed.read_label(0) == 255).all()
    assert revealed.bought == {1: [(0, 0, 16, 16), (100, 50, 128, 64)]}
    assert first not in revealed.bought


def test_a_subset_reveals_no_more(dataset):
    first, second, _ = dataset.pool.paths
    revealed = oracle_of(dataset).reveal({first: [(0, 0, 16, 16)], second: [(8, 8, 64, 64)]})
    part = revealed.subset([2, 1])
    assert (part.read_label(0) == 255).all()
    assert np.array_equal(part.read_label(1), revealed.read_label(1))


def test_only_labels_of_images_that_are_bought_from_are_read(dataset):
    oracle = oracle_of(dataset)
    bought = {dataset.pool.paths[2]: [(0, 0, 8, 8)]}
    digest = oracle.digest(bought)
    for index in (0, 1):
        dataset.label_paths[index].unlink()
    assert oracle.digest(bought) == digest
    dataset.label_paths[2].unlink()
    with pytest.raises(SegalError):
        oracle.digest(bought)


def test_clicks_are_those_of_the_labels(dataset):
    boxes = [(0, 0, 64, 64), (64, 0, 128, 64)]
    clicks = oracle_of(dataset).clicks(dataset.pool.paths[0], boxes, [])
    assert clicks == polygon_clicks(dataset.read_label(0), boxes).tolist()
    assert oracle_of(dataset).clicks(dataset.pool.paths[0], boxes[:1], boxes[:1]) == [0]


def test_what_labels_say_of_regions_is_told_by_those_alone(dataset):
    path = dataset.pool.paths[1]
    boxes = [(0, 0, 64, 64), (64, 0, 128, 64), (0, 0, 128, 64)]
    before = oracle_of(dataset).digests(path, boxes)
    assert len(set(before)) == 3
    revealed = oracle_of(dataset).reveal({path: boxes[:1]})
    digest, by_path = revealed.digest([1]), revealed.digests([1])
    label = cv2.imread(str(dataset.label_paths[1]), cv2.IMREAD_UNCHANGED)
    label[0, 127] = 7 if label[0, 127] != 7 else 8
    cv2.imwrite(str(dataset.label_paths[1]), label)
    after = oracle_of(dataset).digests(path, boxes)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False]
    assert (revealed.digest([1]), revealed.digests([1])) == (digest, by_path)
    assert revealed.digest([0]) != digest
    whole = oracle_of(dataset).reveal({path: boxes[2:]}).digests()
    assert list(whole) == list(dataset.pool.paths)
    assert whole[path] != by_path[path]
