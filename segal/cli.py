"""The command line: wires the subcommands, and turns a user's mistakes into exit code 2."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from segal import __version__
from segal.commands import (
    backup,
    compare,
    demo,
    explain,
    export,
    import_,
    plan,
    pool,
    report,
    review,
    run,
    scan,
    select,
    status,
    strategies,
    train,
    tune,
    validate,
)
from segal.commands.options import Help
from segal.errors import SegalError
from segal.system.launched import COUNT, RANK

_OVER_RANKS = ("run", "scan", "select", "train")
"""Commands that several ranks work at."""

app = typer.Typer(
    name="segal",
    no_args_is_help=True,
    add_completion=False,
    add_help_option=False,  # typer's own would import pydantic for the help of any command
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    select.select,
    scan.scan,
    plan.plan,
    explain.explain,
    train.train,
    run.run,
    compare.compare,
    tune.tune,
    report.report,
    review.review,
    export.export,
    import_.import_,
    status.status,
    validate.validate,
    backup.backup,
    strategies.strategies,
    demo.demo,
):
    app.command(command.__name__.rstrip("_"))(command)
app.add_typer(pool.app, name="pool")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"segal {__version__}")
        raise typer.Exit


@app.callback()
def callback(
    context: typer.Context,
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
    help: Help = False,
) -> None:
    """Chooses which regions of which images to annotate next."""
    command = context.invoked_subcommand
    if COUNT > 1 and command not in _OVER_RANKS:
        remedy = "start it without torchrun"
        if command == "compare":
            remedy += "; its runs are shared by starting it so several times, on any machines"
        raise SegalError(
            f"segal {command} is not for {COUNT} ranks of a job",
            expected=f"one process; ranks work at {', '.join(_OVER_RANKS)}",
            got=f"{COUNT} processes that a launcher started",
            remedy=remedy,
        )


def main() -> None:
    """Runs the command line; exits with 2 for a mistake that the user can mend."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        with _first_alone():
            app()
    except SegalError as error:
        if "--debug" in sys.argv:
            raise
        who = f"rank {RANK}: " if RANK else ""
        typer.secho(f"{who}error: {error}", fg="red", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.secho("stopped; the same command goes on from the last whole stage", err=True)
        sys.exit(130)


@contextmanager
def _first_alone() -> Iterator[None]:
    """Lets rank 0 alone write to stdout, of the processes that torchrun starts."""
    if RANK == 0:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


def _show_warning(message: Warning | str, *_: object) -> None:
    """A warning as a line for a person, without where in the code it was raised."""
    if RANK:
        return
    typer.secho(f"warning: {message}", fg="yellow", err=True)


if __name__ == "__main__":
    main()
