"""`segal run`: rounds of train, evaluate, scan, select and buy."""

from pathlib import Path
from typing import Annotated

import typer

from segal.commands import options as o


def run(
    overrides: o.Overrides = None,
    config: o.ConfigFile = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    strategy: o.Strategy = None,
    tau: o.Tau = None,
    region: o.Region = None,
    seed_set: Annotated[
        str | None, typer.Option(help="Labelled at the start, at random, such as 5% or 20img.")
    ] = None,
    budgets: Annotated[
        str | None, typer.Option(help="Bought after each round, such as 5%,10%.")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Stop at this mIoU (0 to 1) on the validation split.")
    ] = None,
    encoder_weights: Annotated[
        Path | None, typer.Option(help="Local file of the encoder's weights.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to start from.")] = None,
    new_classes: o.NewClasses = None,
    iterations: Annotated[int | None, typer.Option(help="Optimizer steps in a round.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder.")] = None,
    device: o.Device = None,
    threads: o.Threads = None,
    seed: o.Seed = None,
) -> None:
    """Train, evaluate, scan, select and buy, round after round, with known labels as the oracle.

    A run that was killed goes on with the same command. Any key of the configuration can also be
    given as key.path=value, such as start=warm or train.batch_size=4.
    """
    from segal.config import read_config
    from segal.console import say
    from segal.jobs.run import run_rounds
    from segal.jobs.strategies import configure_run

    raw = read_config(
        config,
        overrides or [],
        {
            "data.root": data,
            "strategy": strategy,
            "strategy.tau": tau,
            "region": region,
            "seed_set": seed_set,
            "budgets": budgets,
            "target": target,
            "model.encoder_weights": encoder_weights,
            "checkpoint": checkpoint,
            "model.new_classes": new_classes,
            "train.iterations": iterations,
            "out": out,
            "machine.device": device,
            "machine.threads": threads,
            "seed": seed,
        },
    )
    outcome = run_rounds(*configure_run(raw))
    for note in outcome.notes:
        say(note, style="yellow")
    typer.echo(outcome.history.folder)
