"""`segal status`: what is open, what came back, and what to run next."""

from pathlib import Path
from typing import Annotated

import typer

_YES = {True: "yes", False: "no", None: "-"}


def status(
    run: Annotated[Path, typer.Argument(help="Folder of segal select or segal run.")],
) -> None:
    """Show what a run has bought, handed out, got back and trained on, and what to run next."""
    from segal.jobs.annotate.status import status_of

    found = status_of(run)
    heads = (
        *("round", "picked by", "bought", "withdrawn", "handed out", "back", "pixels", "hours"),
        "trained on",
    )
    rows = [
        (
            *(str(one.round), one.strategy, str(one.bought), str(one.withdrawn)),
            *(str(one.handed), str(one.returned)),
            *(str(one.pixels), f"{one.hours:.2f}", _YES[one.is_trained]),
        )
        for one in found.rounds
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        typer.echo("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))
    for part in found.rounds:
        if part.skipped:
            why = ", ".join(f"{many} {reason}" for reason, many in sorted(part.skipped.items()))
            typer.echo(f"Skipped in review of round {part.round} ({part.strategy}): {why}")
    if found.agreement:
        typer.echo(
            f"Where two annotators answered, {found.unit} of a class that both say, and one:"
        )
        for name, (same, one) in found.agreement.items():
            typer.echo(f"  {name}: {same} and {one}, Dice {2 * same / (2 * same + one):.3f}")
    for line in found.advice:
        typer.echo(line)
