"""Evaluations that ranks share are those of one process, image by image and bit by bit."""

import copy

import pytest
import torch

from segal.config import DataConfig
from segal.tasks import find_task
from segal.tasks.segmentation.task import Segmentation
from segal.tasks.sharing import evaluation_on, metrics_on
from tests.boxed import make_set
from tests.classified import make_tables
from tests.threaded_ranks import on_ranks
from tests.tiny_classifier import TinyClassifier, make_spec
from tests.tiny_detectors import build
from tests.unit.test_train import Dataset, Pool, make_model


class Scenes(Dataset):
    """Of two sizes in turn, so that batches are not in the images' order."""

    def __init__(self, count, sizes=((24, 36), (36, 24))):
        parts = [Dataset(count=count, seed=i, size=size) for i, size in enumerate(sizes)]
        self.labels = [parts[i % len(parts)].labels[i] for i in range(count)]
        self.images = [parts[i % len(parts)].images[i] for i in range(count)]
        self.classes, self.looked_at = parts[0].classes, []
        self.pool = Pool(self.images)

    def subset(self, indices):
        self.looked_at += [self.pool.paths[i] for i in indices]
        return super().subset(indices)


def assert_same(first, second):
    assert type(first) is type(second)
    assert first.images == second.images
    for name, array in first.arrays().items():
        other = second.arrays()[name]
        assert array.dtype == other.dtype
        assert array.tobytes() == other.tobytes(), name
    assert first.metrics.as_dict() == second.metrics.as_dict()


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_segmentation_of_uneven_numbers_and_sizes(count, batch_size):
    dataset, task, model = Scenes(5), Segmentation(), make_model()
    expected = task.evaluation(model, dataset, batch_size=batch_size)

    def work(ranks):
        options = {"batch_size": batch_size}
        return evaluation_on(ranks, task, copy.deepcopy(model), dataset, **options), metrics_on(
            ranks, task, copy.deepcopy(model), dataset, **options
        )

    for every, metrics in on_ranks(count, work):
        assert_same(every, expected)
        assert metrics.as_dict() == expected.metrics.as_dict()
    assert sorted(dataset.looked_at) == sorted(2 * list(dataset.pool.paths))


def on_disk(task, root):
    return find_task(task).open_split(DataConfig(root=root), "val")


@pytest.mark.parametrize("name", ["classification", "multilabel"])
def test_images_that_have_classes_as_wholes(tmp_path, name):
    dataset = on_disk(name, make_tables(tmp_path, {"val": 7}, multilabel=name == "multilabel"))
    task, spec = find_task(name), make_spec(name, class_names=dataset.classes.names)
    torch.manual_seed(0)
    model = task.wrapper(TinyClassifier(len(spec.class_names)), spec)
    expected = task.evaluation(model, dataset, batch_size=2)

    def work(ranks):
        return evaluation_on(ranks, task, copy.deepcopy(model), dataset, batch_size=2)

    for every in on_ranks(3, work):
        assert_same(every, expected)


def test_boxes_of_any_number_in_each_image(tmp_path):
    dataset = on_disk("detection", make_set(tmp_path, "voc", {"val": 5}))
    task, model = find_task("detection"), build("ssd")
    model.network.score_thresh = 0.8
    expected = task.evaluation(model, dataset)
    assert len(set(expected.found_counts.tolist())) > 1

    def work(ranks):
        return evaluation_on(ranks, task, copy.deepcopy(model), dataset)

    for every in on_ranks(6, work):
        assert_same(every, expected)
