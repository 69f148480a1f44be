"""`segal report`: what runs of rounds came to, as one page."""

from pathlib import Path
from typing import Annotated, cast

import typer


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run folders of `segal run`, of one protocol; or one comparison folder.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The HTML file. [default: report.html in the folder, or here for several]"
        ),
    ] = None,
    axis: Annotated[
        str, typer.Option(help="Cost axis: share, regions, pixels, images or clicks.")
    ] = "share",
    embedding: Annotated[str, typer.Option(help="Map of the candidates: pca or tsne.")] = "pca",
) -> None:
    """Write a report of one or several runs: one HTML page, and its charts and tables beside it.

    Runs that differ in nothing but the seed are one arm, drawn with a band.
    """
    from segal.jobs.comparing.report import write_report
    from segal.runs.history import Axis

    page = out or (runs[0] if len(runs) == 1 else Path()) / "report.html"
    typer.echo(write_report(runs, page, axis=cast(Axis, axis), embedding=embedding))
