"""`segal plan`: what a selection would take, before it is made."""

from pathlib import Path
from typing import Annotated

import typer

from segal.commands import options as o


def plan(
    overrides: o.Overrides = None,
    config: o.ConfigFile = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images to select from.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The current network: .safetensors or .pth.")
    ] = None,
    region: o.Region = None,
    budget: Annotated[
        str | None, typer.Option(help="500 (regions), 2% (of the pixels) or 10img.")
    ] = None,
    strategy: o.Strategy = None,
    reference: o.Reference = None,
    threads: o.Threads = None,
) -> None:
    """Say about how much time, memory and disk `segal select` would take, from a trial.

    Takes the configuration and the overrides of `segal select`; nothing is written.
    """
    from segal.config import read_config
    from segal.jobs.plan import plan_selection
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
            "reference.root": root,
            "reference.split": split,
            "machine.threads": threads,
        },
    )
    for line in plan_selection(*configure_selection({"out": "plan", **raw})).lines():
        typer.echo(line)
