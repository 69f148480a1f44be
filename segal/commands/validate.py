"""`segal validate`: looks at inputs before any work is done with them."""

from pathlib import Path
from typing import Annotated

import typer

from segal.commands import options as o


def validate(
    path: Annotated[
        Path,
        typer.Argument(help="A run or comparison, a data set, images, or a configuration."),
    ],
    layout: Annotated[
        str, typer.Option(help="Of a data set: cityscapes, folder or auto.")
    ] = "auto",
    ignore_index: Annotated[
        int | None, typer.Option(help="A label value that stands for no class.")
    ] = None,
    bands: o.Bands = None,
    page: o.Page = None,
    workers: o.Workers = None,
) -> None:
    """Check a run, a comparison, a data set, a folder of images or a configuration; say what it is.

    Every mistake is reported at once, with exit code 2.
    """
    from segal.jobs.validate import validate_path

    for line in validate_path(path, layout, ignore_index, workers or 1, bands, page):
        typer.echo(line)
