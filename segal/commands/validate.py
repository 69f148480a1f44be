"""`segal validate`: looks at inputs before any work is done with them."""

from pathlib import Path
from typing import Annotated

import typer

from segal.commands import options as o


def validate(
    path: Annotated[
        Path,
        typer.Argument(
            help="A run or comparison, a data set, images, a configuration, or a feature store."
        ),
    ],
    task: Annotated[
        str, typer.Option(help="Of a data set or of images; told by what is there.")
    ] = "",
    layout: Annotated[
        str,
        typer.Option(help="Of a data set: name of the files' layout, or auto."),
    ] = "auto",
    ignore_index: Annotated[
        int | None, typer.Option(help="A label value that stands for no class.")
    ] = None,
    reduce_zero_label: Annotated[
        bool,
        typer.Option("--reduce-zero-label", help="0 stands for no class; classes count from 1."),
    ] = False,
    label_suffix: Annotated[
        str | None,
        typer.Option(help="What follows an image's name in its label's, such as _mask."),
    ] = None,
    bands: Annotated[str | None, o.BANDS.info] = None,
    page: Annotated[int | None, o.PAGE.info] = None,
    workers: Annotated[int | None, o.WORKERS.info] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Of a run: make again first what its ledger can tell.")
    ] = False,
) -> None:
    """Check a run, comparison, data set, images, configuration or store; say what it is.

    Every mistake is reported at once, with exit code 2.
    """
    from segal.jobs.validate import validate_path

    if repair:
        from segal.jobs.repair import repair as mend
        from segal.system.console import tell

        found = mend(path)
        for line in found.mended:
            typer.echo(f"mended: {line}")
        tell(*found.lost)
    given = {
        "layout": layout,
        "ignore_index": ignore_index,
        "reduce_zero_label": reduce_zero_label,
        "label_suffix": label_suffix,
        "bands": bands,
        "page": page,
    }
    for line in validate_path(path, given, workers or 1, task):
        typer.echo(line)
