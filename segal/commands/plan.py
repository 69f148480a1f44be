"""`segal plan`: what a selection would take, before it is made."""

from typing import Any

import typer

from segal.commands import options as o


@o.configured(*o.SELECTION)
def plan(raw: dict[str, Any]) -> None:
    """Say about how much time, memory and disk `segal select` would take, from a trial.

    Takes what `segal select` takes; nothing is written.
    """
    from segal.jobs.plan import plan_selection
    from segal.jobs.strategies import configure_selection

    for line in plan_selection(*configure_selection({"out": "plan", **raw})).lines():
        typer.echo(line)
