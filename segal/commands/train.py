"""`segal train`: trains a network on what is labelled."""

from pathlib import Path
from typing import Annotated

import typer

from segal.commands import options as o


def train(
    overrides: o.Overrides = None,
    config: o.ConfigFile = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="ade20k, camvid, cityscapes, folder, voc or auto. [default: auto]"),
    ] = None,
    ignore_index: Annotated[
        int | None, typer.Option(help="A label value that stands for no class.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="To train on. [default: train]")] = None,
    validation: Annotated[
        str | None, typer.Option(help="Split that picks the best weights. [default: none]")
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Split to evaluate the result on. [default: none]")
    ] = None,
    labelled: Annotated[
        list[Path] | None,
        typer.Option(
            help="A selection.csv, or a run folder, of what is labelled; may be repeated."
        ),
    ] = None,
    missing_labels: Annotated[
        str | None,
        typer.Option(
            help="refuse, or skip to train on the labelled regions whose labels have come, and list"
            " the others in owed.csv. [default: refuse]"
        ),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to start from.")] = None,
    new_classes: o.NewClasses = None,
    arch: o.Architecture = None,
    encoder: o.Encoder = None,
    encoder_weights: Annotated[
        Path | None, typer.Option(help="Local file of the encoder's weights.")
    ] = None,
    mean: o.Mean = None,
    std: o.Std = None,
    input_scale: o.InputScale = None,
    iterations: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at the start.")] = None,
    crop: Annotated[str | None, typer.Option(help="512, HEIGHTxWIDTH or image.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder.")] = None,
    device: o.Device = None,
    threads: o.Threads = None,
    seed: o.Seed = None,
) -> None:
    """Train a network on labelled regions, and evaluate it.

    Any key of the configuration can also be given as key.path=value, such as
    train.optimizer=adamw or train.batch_size=4.
    """
    from segal.config import TrainConfig, read_config, validate
    from segal.console import say
    from segal.errors import raise_all
    from segal.evaluation import one_answer
    from segal.jobs.labels import shown_miou
    from segal.jobs.train import run_training

    raw = read_config(
        config,
        overrides or [],
        {
            "data.root": data,
            "data.layout": layout,
            "data.ignore_index": ignore_index,
            "data.train": split,
            "data.validation": validation,
            "data.test": test,
            "labelled": labelled or None,
            "missing_labels": missing_labels,
            "model.new_classes": new_classes,
            "checkpoint": checkpoint,
            "model.architecture": arch,
            "model.encoder": encoder,
            "model.encoder_weights": encoder_weights,
            "model.mean": mean,
            "model.std": std,
            "model.input_scale": input_scale,
            "train.iterations": iterations,
            "train.lr": lr,
            "train.crop": crop,
            "out": out,
            "machine.device": device,
            "machine.threads": threads,
            "seed": seed,
        },
    )
    resolved, errors = validate(TrainConfig, raw)
    raise_all(errors)
    assert resolved is not None
    outcome = run_training(resolved)
    for name in ("validation", "test"):
        if name in outcome.metrics:
            said = one_answer(outcome.metrics[name])
            shown = shown_miou(outcome.metrics[name])
            say(f"mIoU on {name}: {shown}" + (f", but {said}" if said else ""))
    typer.echo(outcome.model)
