"""`segal plan`: what a selection would take, before it is made."""

import typer

from segal.commands import options as o


def plan(
    overrides: o.Overrides = None,
    config: o.ConfigFile = None,
    images: o.Images = None,
    checkpoint: o.Checkpoint = None,
    region: o.Region = None,
    budget: o.Budget = None,
    strategy: o.Strategy = None,
    reference: o.Reference = None,
    threads: o.Threads = None,
    bands: o.Bands = None,
    page: o.Page = None,
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
            "bands": bands,
            "page": page,
        },
    )
    for line in plan_selection(*configure_selection({"out": "plan", **raw})).lines():
        typer.echo(line)
