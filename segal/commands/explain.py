"""`segal explain`: maps of where accepting the network's own prediction would hurt."""

from pathlib import Path
from typing import Any

import typer

from segal.commands import options as o


@o.configured(
    *o.INPUTS,
    o.flag("score", str, "error_change or influence. [default: error_change]"),
    o.flag("layers", str, "last, last_two, all or a module of the network, to differentiate by."),
    o.flag("count", int, "So many images, spread evenly. [default: all]"),
    o.flag("raw", bool, "Also write the maps as .npy files."),
    o.flag("out", Path, "Takes the pictures."),
    *o.SCANNING,
)
def explain(configuration: dict[str, Any]) -> None:
    """Draw where accepting the network's own prediction would hurt, beside its entropy.

    A pixel is red where training on it with the predicted class would raise the loss of the
    labelled reference images, to first order: there the prediction is likely wrong.
    """
    from segal.jobs.explain import configure_explanation, run_explanation
    from segal.system.console import say, tell

    result = run_explanation(configure_explanation(configuration))
    tell(*result.notes)
    say(f"{len(result.images)} images explained")
    typer.echo(result.out)
