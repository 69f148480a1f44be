"""`segal explain`: maps of where accepting the network's own prediction would hurt."""

from pathlib import Path
from typing import Annotated, Any

import typer

from segal.commands import options as o


@o.configured(
    **o.INPUTS,
    score=o.flag(
        Annotated[
            str | None, typer.Option(help="error_change or influence. [default: error_change]")
        ],
        "score",
    ),
    layers=o.flag(
        Annotated[
            str | None,
            typer.Option(
                help="last, last_two, all or a module of the network, to differentiate by."
            ),
        ],
        "layers",
    ),
    count=o.flag(
        Annotated[int | None, typer.Option(help="So many images, spread evenly. [default: all]")],
        "count",
    ),
    raw=o.flag(
        Annotated[bool | None, typer.Option("--raw", help="Also write the maps as .npy files.")],
        "raw",
    ),
    out=o.flag(Annotated[Path | None, typer.Option(help="Takes the pictures.")], "out"),
    **o.SCANNING,
)
def explain(configuration: dict[str, Any]) -> None:
    """Draw where accepting the network's own prediction would hurt, beside its entropy.

    A pixel is red where training on it with the predicted class would raise the loss of the
    labelled reference images, to first order: there the prediction is likely wrong.
    """
    from segal.jobs.explain import configure_explanation, run_explanation
    from segal.system.console import say

    result = run_explanation(configure_explanation(configuration))
    for note in result.notes:
        say(note, style="yellow")
    say(f"{len(result.images)} images explained")
    typer.echo(result.out)
