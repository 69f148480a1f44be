"""`segal demo`: all of it, on scenes that it makes itself."""

from pathlib import Path
from typing import Annotated

import typer

from segal.commands import options as o


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that it makes.")] = Path("demo"),
    seed: Annotated[int | None, o.SEED.info] = None,
    threads: Annotated[int | None, o.THREADS.info] = None,
) -> None:
    """Make street scenes, train, select regions, retrain, and compare with random regions.

    Takes about five minutes on two cores, and needs nothing but this package.
    """
    from segal.jobs.demo import run_demo

    typer.echo(run_demo(out, seed or 0, threads))
