"""`segal select`: picks the regions of a pool of images to annotate next."""

from typing import Any

import typer

from segal.commands import options as o


@o.configured(*o.SELECTION)
def select(raw: dict[str, Any]) -> None:
    """Pick the regions of a pool of images that are worth annotating next.

    Any key of the configuration can also be given as key.path=value, such as
    strategy.uncertainty=bvsb or extra_regions=256,128.
    """
    from segal.jobs.select import run_selection
    from segal.jobs.strategies import configure_selection
    from segal.system.console import say, tell

    result = run_selection(*configure_selection(raw))
    tell(*result.summary["notes"])
    say(result.headline)
    typer.echo(result.selection)
