"""`segal train`: trains a network on what is labelled."""

from typing import Annotated, Any

import typer

from segal.commands import options as o


@o.configured(
    data=o.flag(o.DataRoot, "data.root"),
    layout=o.flag(
        Annotated[
            str | None,
            typer.Option(help="ade20k, camvid, cityscapes, folder, voc or auto. [default: auto]"),
        ],
        "data.layout",
    ),
    ignore_index=o.flag(
        Annotated[int | None, typer.Option(help="A label value that stands for no class.")],
        "data.ignore_index",
    ),
    split=o.flag(
        Annotated[str | None, typer.Option(help="To train on. [default: train]")], "data.train"
    ),
    validation=o.flag(
        Annotated[
            str | None, typer.Option(help="Split that picks the best weights. [default: none]")
        ],
        "data.validation",
    ),
    test=o.flag(
        Annotated[
            str | None, typer.Option(help="Split to evaluate the result on. [default: none]")
        ],
        "data.test",
    ),
    labelled=o.flag(o.Labelled, "labelled"),
    missing_labels=o.flag(
        Annotated[
            str | None,
            typer.Option(
                help="refuse, or skip to train on the labelled regions whose labels have come, and "
                "list the others in owed.csv. [default: refuse]"
            ),
        ],
        "missing_labels",
    ),
    checkpoint=o.flag(o.StartingWeights, "checkpoint"),
    new_classes=o.flag(o.NewClasses, "model.new_classes"),
    arch=o.flag(o.Architecture, "model.architecture"),
    encoder=o.flag(o.Encoder, "model.encoder"),
    encoder_weights=o.flag(o.EncoderWeights, "model.encoder_weights"),
    mean=o.flag(o.Mean, "model.mean"),
    std=o.flag(o.Std, "model.std"),
    input_scale=o.flag(o.InputScale, "model.input_scale"),
    iterations=o.flag(
        Annotated[int | None, typer.Option(help="Optimizer steps.")], "train.iterations"
    ),
    lr=o.flag(
        Annotated[float | None, typer.Option(help="Learning rate at the start.")], "train.lr"
    ),
    crop=o.flag(
        Annotated[str | None, typer.Option(help="512, HEIGHTxWIDTH or image.")], "train.crop"
    ),
    out=o.flag(o.Out, "out"),
    device=o.flag(o.Device, "machine.device"),
    threads=o.flag(o.Threads, "machine.threads"),
    seed=o.flag(o.Seed, "seed"),
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
    from segal.tasks.judging import metric_of, one_answer, shown_value

    resolved, errors = validate(TrainConfig, raw)
    raise_all(errors)
    assert resolved is not None
    outcome = run_training(resolved)
    for name in ("validation", "test"):
        if name in outcome.metrics:
            metrics = outcome.metrics[name]
            said, title = one_answer(metrics), metric_of(metrics).title
            say(f"{title} on {name}: {shown_value(metrics)}" + (f", but {said}" if said else ""))
    typer.echo(outcome.model)
