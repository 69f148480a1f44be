"""`segal run`: rounds of train, evaluate, scan, select and buy."""

from typing import Annotated, Any

import typer

from segal.commands import options as o


@o.configured(
    data=o.flag(o.DataRoot, "data.root"),
    strategy=o.flag(o.Strategy, "strategy"),
    tau=o.flag(o.Tau, "strategy.tau"),
    region=o.flag(o.Region, "region"),
    seed_set=o.flag(
        Annotated[
            str | None, typer.Option(help="Labelled at the start, at random, such as 5% or 20img.")
        ],
        "seed_set",
    ),
    budgets=o.flag(
        Annotated[str | None, typer.Option(help="Bought after each round, such as 5%,10%.")],
        "budgets",
    ),
    target=o.flag(
        Annotated[
            float | None,
            typer.Option(help="Stop at this score (0 to 1; mIoU, accuracy) on validation."),
        ],
        "target",
    ),
    encoder_weights=o.flag(o.EncoderWeights, "model.encoder_weights"),
    checkpoint=o.flag(o.StartingWeights, "checkpoint"),
    new_classes=o.flag(o.NewClasses, "model.new_classes"),
    iterations=o.flag(
        Annotated[int | None, typer.Option(help="Optimizer steps in a round.")], "train.iterations"
    ),
    out=o.flag(o.Out, "out"),
    device=o.flag(o.Device, "machine.device"),
    threads=o.flag(o.Threads, "machine.threads"),
    seed=o.flag(o.Seed, "seed"),
)
def run(raw: dict[str, Any]) -> None:
    """Train, evaluate, scan, select and buy, round after round, with known labels as the oracle.

    A run that was killed goes on with the same command. Any key of the configuration can also be
    given as key.path=value, such as start=warm or train.batch_size=4.
    """
    from segal.jobs.rounds.run import run_rounds
    from segal.jobs.strategies import configure_run
    from segal.system.console import say

    outcome = run_rounds(*configure_run(raw))
    for note in outcome.notes:
        say(note, style="yellow")
    typer.echo(outcome.history.folder)
