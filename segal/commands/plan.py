"""`segal plan`: what a selection would take, before it is made."""

from typing import Annotated, Any

import typer

from segal.commands import options as o


@o.configured(*o.SELECTION)
def plan(
    raw: dict[str, Any],
    ranks: Annotated[
        int, typer.Option(min=1, max=100_000, help="Processes that would share it, by torchrun.")
    ] = 1,
    click_seconds: Annotated[
        float, typer.Option(min=0.01, help="How long a click, or a box, takes an annotator.")
    ] = 2.0,
) -> None:
    """Say about what `segal select` would take: time, memory, disk, clicks and hours.

    Takes what `segal select` takes, tries it on a few images, and says what will not fit; nothing
    is written.
    """
    from segal.jobs.plan import plan_selection
    from segal.jobs.strategies import configure_selection

    config, strategy = configure_selection({"out": "plan", **raw})
    plan = plan_selection(config, strategy, ranks=ranks, click_seconds=click_seconds)
    for line in plan.lines():
        typer.echo(line)
