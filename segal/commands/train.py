"""`segal train`: trains a network on what is labelled."""

from typing import Any

import typer

from segal.commands import options as o


@o.configured(
    *(o.TASK, o.DATA),
    o.flag("data.layout", str, "Name of the files' layout, or auto. [default: auto]"),
    o.flag("data.ignore_index", int, "A label value that stands for no class."),
    o.flag("data.train", str, "To train on. [default: train]", name="split"),
    o.flag("data.validation", str, "Split that picks the best weights. [default: none]"),
    o.flag("data.test", str, "Split to evaluate the result on. [default: none]"),
    *(o.LABELLED, o.EXCLUDE),
    o.flag(
        "missing_labels",
        str,
        "refuse, or skip to train on the labelled regions whose labels have come, and "
        "list the others in owed.csv. [default: refuse]",
    ),
    *(o.STARTING_WEIGHTS, o.NEW_CLASSES, o.ARCH, o.ENCODER, o.ENCODER_WEIGHTS),
    *(o.MEAN, o.STD, o.INPUT_SCALE),
    o.flag("train.iterations", int, "Optimizer steps."),
    o.flag("train.lr", float, "Learning rate at the start."),
    o.flag("train.crop", str, "512, HEIGHTxWIDTH or image."),
    *(o.OUT, o.DEVICE, o.THREADS, o.SEED),
)
def train(raw: dict[str, Any]) -> None:
    """Train a network on labelled regions, and evaluate it.

    Any key of the configuration can also be given as key.path=value, such as
    train.optimizer=adamw or train.batch_size=4.
    """
    from segal.config import TrainConfig, validate
    from segal.errors import raise_all
    from segal.jobs.train import run_training
    from segal.system.console import say
    from segal.tasks.judging import metric_of, remark, shown_value

    resolved, errors = validate(TrainConfig, raw)
    raise_all(errors)
    assert resolved is not None
    outcome = run_training(resolved)
    for name in ("validation", "test"):
        if name in outcome.metrics:
            metrics = outcome.metrics[name]
            said, title = remark(metrics), metric_of(metrics).title
            say(f"{title} on {name}: {shown_value(metrics)}" + (f", but {said}" if said else ""))
    typer.echo(outcome.model)
