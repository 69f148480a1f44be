"""`segal scan`: a share of the pass over a pool, on one of several machines."""

from typing import Annotated, Any

import typer

from segal.commands import options as o


@o.configured(*(one for one in o.SELECTION if one is not o.FROM_SCAN))
def scan(
    raw: dict[str, Any],
    shard: Annotated[
        str, typer.Option(metavar="K/N", help="Which share of the pool, such as 3/16.")
    ] = "1/1",
) -> None:
    """Measure a share of a pool for a selection, into a folder that several machines share.

    Takes what `segal select` takes, with --out for that folder. Blocks of images that are there
    already are kept. When all shards are done, `segal select --from-scan FOLDER` chooses.
    """
    from segal.jobs.scan import Shard, run_scan
    from segal.jobs.strategies import configure_selection
    from segal.system.console import say, tell

    outcome = run_scan(*configure_selection(raw), Shard.parse(shard))
    tell(*outcome.notes)
    say(outcome.headline)
    typer.echo(outcome.out)
