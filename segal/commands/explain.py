"""`segal explain`: maps of where accepting the network's own prediction would hurt."""

from pathlib import Path
from typing import Annotated

import typer

from segal.commands import options as o


def explain(
    overrides: o.Overrides = None,
    config: o.ConfigFile = None,
    images: o.Images = None,
    checkpoint: o.Checkpoint = None,
    reference: o.Reference = None,
    score: Annotated[
        str | None, typer.Option(help="error_change or influence. [default: error_change]")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="last, last_two, all or a module of the network, to differentiate by."),
    ] = None,
    labelled: o.Labelled = None,
    count: Annotated[
        int | None, typer.Option(help="So many images, spread evenly. [default: all]")
    ] = None,
    raw: Annotated[
        bool | None, typer.Option("--raw", help="Also write the maps as .npy files.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Takes the pictures.")] = None,
    arch: o.Architecture = None,
    encoder: o.Encoder = None,
    num_classes: o.NumClasses = None,
    mean: o.Mean = None,
    std: o.Std = None,
    input_scale: o.InputScale = None,
    device: o.Device = None,
    batch_size: o.BatchSize = None,
    workers: o.Workers = None,
    threads: o.Threads = None,
    seed: o.Seed = None,
    precision: o.Precision = None,
    bands: o.Bands = None,
    page: o.Page = None,
    skip_unreadable: o.SkipUnreadable = None,
) -> None:
    """Draw where accepting the network's own prediction would hurt, beside its entropy.

    A pixel is red where training on it with the predicted class would raise the loss of the
    labelled reference images, to first order: there the prediction is likely wrong.
    """
    from segal.config import read_config
    from segal.console import say
    from segal.jobs.explain import configure_explanation, run_explanation

    root, split = o.root_and_split(reference)
    result = run_explanation(
        configure_explanation(
            read_config(
                config,
                overrides or [],
                {
                    "images": images,
                    "checkpoint": checkpoint,
                    "reference.root": root,
                    "reference.split": split,
                    "score": score,
                    "layers": layers,
                    "labelled": labelled or None,
                    "count": count,
                    "raw": raw,
                    "out": out,
                    "model.architecture": arch,
                    "model.encoder": encoder,
                    "model.num_classes": num_classes,
                    "model.mean": mean,
                    "model.std": std,
                    "model.input_scale": input_scale,
                    "machine.device": device,
                    "machine.batch_size": batch_size,
                    "machine.workers": workers,
                    "machine.threads": threads,
                    "seed": seed,
                    "precision": precision,
                    "bands": bands,
                    "page": page,
                    "skip_unreadable": skip_unreadable,
                },
            )
        )
    )
    for note in result.notes:
        say(note, style="yellow")
    say(f"{len(result.images)} images explained")
    typer.echo(result.out)
