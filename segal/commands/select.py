"""`segal select`: picks the regions of a pool of images to annotate next."""

from pathlib import Path
from typing import Annotated

import typer

from segal.commands import options as o


def select(
    overrides: o.Overrides = None,
    config: o.ConfigFile = None,
    images: o.Images = None,
    checkpoint: o.Checkpoint = None,
    region: o.Region = None,
    budget: o.Budget = None,
    strategy: o.Strategy = None,
    tau: o.Tau = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder.")] = None,
    labelled: o.Labelled = None,
    reference: o.Reference = None,
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
    overlays: Annotated[
        int | None, typer.Option(help="Images to draw overlays of, best first. [default: 20]")
    ] = None,
    bands: o.Bands = None,
    page: o.Page = None,
    skip_unreadable: o.SkipUnreadable = None,
) -> None:
    """Pick the regions of a pool of images that are worth annotating next.

    Any key of the configuration can also be given as key.path=value, such as
    strategy.uncertainty=bvsb or extra_regions=256,128.
    """
    from segal.config import read_config
    from segal.console import say
    from segal.jobs.select import run_selection
    from segal.jobs.strategies import configure_selection

    root, split = o.root_and_split(reference)
    raw = read_config(
        config,
        overrides or [],
        {
            "images": images,
            "checkpoint": checkpoint,
            "region": region,
            "budget": budget,
            "strategy": strategy,
            "strategy.tau": tau,
            "out": out,
            "labelled": labelled or None,
            "reference.root": root,
            "reference.split": split,
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
            "overlays": overlays,
            "bands": bands,
            "page": page,
            "skip_unreadable": skip_unreadable,
        },
    )
    result = run_selection(*configure_selection(raw))
    for note in result.summary["notes"]:
        say(note, style="yellow")
    say(result.headline)
    typer.echo(result.selection)
