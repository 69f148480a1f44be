"""`segal review`: a page to look at picks before they are handed out."""

from pathlib import Path
from typing import Annotated

import typer


def review(
    run: Annotated[Path, typer.Argument(help="Folder of segal select or segal run --annotate.")],
    out: Annotated[
        Path | None, typer.Option(help="The HTML file. [default: review.html in the folder]")
    ] = None,
    picks: Annotated[
        str, typer.Option(help="Which of the pick order, FIRST:LAST; all by default.")
    ] = "",
    images: Annotated[
        Path | None, typer.Option(help="Where the images (of a run, the data set) are now.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The network, if it is not where the run had it.")
    ] = None,
) -> None:
    """Write a page on which picks are kept, skipped or reordered before they go to annotators.

    It is one file that needs no server. What it saves is taken in by segal import, which puts the
    next pick that the budget buys in the place of each that was skipped.
    """
    from segal.jobs.annotate.review import ReviewSettings, write_review
    from segal.system.console import say, tell

    page = write_review(run, ReviewSettings(out, picks, images, checkpoint))
    tell(*page.notes)
    typer.echo(page.path)
    say(
        f"{page.picks} picks, {page.bytes / 1e6:.1f} MB. Open it in a browser; take in what it "
        f"saves with segal import {run} FILE."
    )
