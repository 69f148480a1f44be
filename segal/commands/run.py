"""`segal run`: rounds of train, evaluate, scan, select and buy."""

from typing import Any

import typer

from segal.commands import options as o


@o.configured(
    *(o.TASK, o.DATA),
    *(o.STRATEGY, o.TAU, o.REGION, o.EXCLUDE),
    o.flag("seed_set", str, "Labelled at the start, such as 5% or 20img."),
    o.flag("seed_strategy", str, "What chooses it by the encoder's features. [default: random]"),
    o.flag("budgets", str, "Bought after each round, such as 5%,10%; in detection also 500box."),
    o.flag("annotate", bool, "Stop for people after each selection; they label what is bought."),
    o.flag("target", float, "Stop at this score (0 to 1; mIoU, accuracy) on validation."),
    *(o.ENCODER_WEIGHTS, o.STARTING_WEIGHTS, o.NEW_CLASSES),
    o.flag("train.iterations", int, "Optimizer steps in a round."),
    *(o.OUT, o.DEVICE, o.THREADS, o.SEED),
)
def run(raw: dict[str, Any]) -> None:
    """Train, evaluate, scan, select and buy, round after round, with known labels as the oracle.

    With --annotate people are the oracle: the run stops for them, and the same command goes on once
    segal import has taken in their labels.

    A run that was killed goes on with the same command. Any key of the configuration can also be
    given as key.path=value, such as start=warm or train.batch_size=4.
    """
    from segal.jobs.rounds.run import run_rounds
    from segal.jobs.strategies import configure_run
    from segal.system.console import tell

    outcome = run_rounds(*configure_run(raw))
    tell(*outcome.notes)
    typer.echo(outcome.history.folder)
