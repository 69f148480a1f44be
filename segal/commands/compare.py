"""`segal compare`: arms times seeds, at equal cost."""

from pathlib import Path
from typing import Annotated, Any

import typer

from segal.commands import options as o

_SHOWN_ROWS = 40


@o.configured(
    o.flag("out", Path, "The comparison's folder."),
    o.flag("run.exclude", Path, "What is never annotated; see `segal run`.", name="exclude"),
    *(o.DEVICE, o.THREADS),
)
def compare(
    raw: dict[str, Any],
    processes: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that share the runs on this machine.")
    ] = 1,
    partial: Annotated[
        bool, typer.Option("--partial", help="Do no run; report on those that are finished.")
    ] = False,
) -> None:
    """Run every arm with every seed, at equal cost, and report which is better and how surely.

    The same command goes on where it stopped, and shares the runs with others of it that are at
    work, in other terminals or on machines with the same file system.
    """
    from segal.jobs.comparing.compare import run_comparison
    from segal.jobs.planning import plan_comparison
    from segal.system.console import say, tell

    outcome = run_comparison(plan_comparison(raw), processes=processes, partial=partial)
    for table in outcome.tables:
        if len(table.rows) <= _SHOWN_ROWS:
            say(table.as_text() + "\n")
    if outcome.missing:
        tell(f"Not there yet: {', '.join(outcome.missing)}")
    typer.echo(outcome.file)
