"""Results of any task, read without knowing which it was."""

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from segal.data.pool import one_of
from segal.errors import SegalError
from segal.functional.metrics import largest_answer
from segal.system.files import read_error
from segal.tasks.classification.evaluation import ClassificationEvaluation, MultilabelEvaluation
from segal.tasks.detection.evaluation import CocoEvaluation, DetectionEvaluation
from segal.tasks.evaluation import Evaluation, Metric
from segal.tasks.segmentation.evaluation import SegmentationEvaluation

_EVALUATIONS: tuple[type[Evaluation], ...] = (
    SegmentationEvaluation,
    ClassificationEvaluation,
    MultilabelEvaluation,
    DetectionEvaluation,
    CocoEvaluation,
)
_METRICS = {evaluation.metric.key: evaluation.metric for evaluation in _EVALUATIONS}

_SHOWN = 6  # classes in a line

ONE_CLASS = 0.999
"""Share of what it is asked above which a network answers one class only."""


def read_evaluation(path: Path) -> Evaluation:
    """Reads what `Evaluation.write` wrote.

    Raises:
        SegalError: If the file is missing, or is no such file.
    """
    kinds = {evaluation.kind: evaluation for evaluation in _EVALUATIONS}
    try:
        with np.load(path, allow_pickle=False) as stored:
            kind = str(stored["kind"]) if "kind" in stored else ""
            if kind not in kinds:
                raise ValueError(f"of kind {kind!r}")
            return kinds[kind].of_arrays(stored)
    except OSError as error:
        raise read_error(path, error, "an evaluation") from error
    except (ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        raise SegalError(
            f"{path}: cannot be read as an evaluation",
            expected="a file that segal run wrote",
            got=str(error),
            remedy="run the same command again: it makes damaged files anew",
        ) from error


def metric_of(metrics: Mapping[str, Any]) -> Metric:
    """What a split is judged by.

    Args:
        metrics: Of the split, as `metrics.json` has them.

    Raises:
        SegalError: If this version of segal knows no such metric.
    """
    key = metrics.get("metric", SegmentationEvaluation.metric.key)
    metric = _METRICS.get(key) if isinstance(key, str) else None
    if metric is None:
        raise SegalError(
            f"a split is judged by {key!r}, which is not known",
            expected=", ".join(_METRICS),
            got=repr(key),
            remedy="use the version of segal that wrote it, or a newer one",
        )
    return metric


def shown_score(metrics: Mapping[str, Any]) -> str:
    """The metric that a split is judged by, for people: its title and its value.

    A mean that is not over all classes says so.

    Args:
        metrics: Of the split, as `metrics.json` has them.
    """
    metric = metric_of(metrics)
    return f"{metric.title} {shown_value(metrics)}"


def shown_value(metrics: Mapping[str, Any]) -> str:
    """As `shown_score`, without the title."""
    metric = metric_of(metrics)
    score = metric.of(metrics)
    if score is None:
        return f"no labelled {one_of(metric.elements)}"
    classes, absent = len(metric.classes(metrics)), metrics["absent"]
    partial = metric.of_classes and absent
    over = f" over {classes - absent} of {classes} classes" if partial else ""
    return f"{100 * score:.2f} %{over}"


def one_answer(metrics: Mapping[str, Any]) -> str | None:
    """What to say of a network that answers one class wherever it is asked; None of others.

    Args:
        metrics: Of a split, as `metrics.json` has them.
    """
    metric = metric_of(metrics)
    if metric.answered is None:
        return None
    most, share = largest_answer(metric.answered(metrics))
    if not share > ONE_CLASS:
        return None
    name, percent = metric.classes(metrics)[most], math.floor(10_000 * share) / 100
    return f"the network answers {name!r} on {percent:g} % of the {metric.elements}"


def never_predicted(metrics: Mapping[str, Any]) -> list[str]:
    """Classes that the labels of a split show and that the network never predicts there.

    Args:
        metrics: Of the split, as `metrics.json` has them.

    Returns:
        Their names, in order. A detector predicts a class where it finds a box of it, above its own
        threshold; of images with many classes each is a question of its own.
    """
    metric = metric_of(metrics)
    pairs = zip(metric.classes(metrics), metric.by_class(metrics), strict=False)
    return [name for name, (labelled, predicted) in pairs if labelled and not predicted]


def remark(metrics: Mapping[str, Any]) -> str | None:
    """What to say beside a score of the classes that a network predicts; None where all is usual.

    Args:
        metrics: Of a split, as `metrics.json` has them.
    """
    one, never = one_answer(metrics), never_predicted(metrics)
    if not never:
        return one
    absent = f"never predicts {named(never, _SHOWN)}"
    return f"the network {absent}" if one is None else f"{one}, and {absent}"


def named(names: Sequence[str], most: int) -> str:
    """Names in quotes, at most so many of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
