"""An evaluation that the ranks of a job share: each image is looked at once, by one of them.

Ranks take whole batches of those that one process would run, in their order, so that every number
is what one process finds; what they found is gathered as it is, and put in the data set's order.
"""

from dataclasses import fields, replace
from typing import Any, Unpack

import numpy as np

from segal.data.labelled import LabelledDataset
from segal.functional.shares import shares
from segal.models.wrapped import Model
from segal.system.ranks import Ranks
from segal.tasks.base import Task
from segal.tasks.evaluation import Evaluation, Metrics
from segal.tasks.options import PredictionOptions

_BATCH_SIZE = 8  # of `Task.outputs`, where none is given


def evaluation_on(
    ranks: Ranks,
    task: Task,
    model: Model,
    dataset: LabelledDataset,
    **options: Unpack[PredictionOptions],
) -> Evaluation:
    """As `Task.evaluation`; every rank calls it, and has all of it.

    Args:
        ranks: Of the job.
        task: What the network is asked.
        model: The network; the same on all ranks.
        dataset: Images with labels; likewise.
        **options: As `Task.evaluation` takes them; `batch_size` is the same on all ranks.

    Raises:
        SegalError: As `Task.evaluation`.
    """
    if ranks.count == 1:
        return task.evaluation(model, dataset, **options)
    batches = task.batches(dataset.pool, options.get("batch_size", _BATCH_SIZE))
    areas = [sum(int(np.prod(dataset.pool.shape(i))) for i in batch) for batch in batches]
    images = [
        [index for number in own for index in batches[number]] for own in shares(areas, ranks.count)
    ]
    own = task.evaluation(model, dataset.subset(images[ranks.rank]), **options)
    order = np.argsort(np.concatenate([np.array(part, np.int64) for part in images]))
    return gathered(ranks, own).taken(order)


def metrics_on(
    ranks: Ranks,
    task: Task,
    model: Model,
    dataset: LabelledDataset,
    **options: Unpack[PredictionOptions],
) -> Metrics:
    """As `Task.evaluate`, likewise."""
    if ranks.count == 1:
        return task.evaluate(model, dataset, **options)
    return evaluation_on(ranks, task, model, dataset, **options).metrics


def gathered(ranks: Ranks, own: Evaluation) -> Evaluation:
    """The evaluations of all ranks, one after another.

    Args:
        ranks: Of the job.
        own: This rank's, of any number of images.
    """
    names = [field.name for field in fields(own) if field.name not in {"class_names", "images"}]
    there = {name: getattr(own, name) for name in names if getattr(own, name) is not None}
    every = ranks.arrays(there)
    joined: dict[str, Any] = {
        name: np.concatenate([part[name] for part in every]) for name in there
    }
    images = [path for text in ranks.texts("\0".join(own.images)) for path in text.split("\0")]
    return replace(own, images=tuple(path for path in images if path), **joined)
