"""Progress bars and lines for people; they go to stderr, so that stdout stays clean for pipes.

Of the processes that torchrun starts, rank 0 alone speaks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from segal.system.launched import RANK

CONSOLE = Console(stderr=True, highlight=False, quiet=RANK > 0)


class Advance(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, total: int, note: str = "", /) -> None:
        """Shows that so many of all are done, with a few words behind."""
        ...


@contextmanager
def bar(title: str) -> Iterator[Advance]:
    """A progress bar; gives what moves it."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=CONSOLE) as progress:
        task = progress.add_task(title, total=None, note="")

        def advance(done: int, total: int, note: str = "", /) -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield advance


def say(text: str, style: str = "") -> None:
    """Prints a line for the person at the terminal."""
    CONSOLE.print(text, style=style, markup=False, soft_wrap=True)


def tell(*notes: str) -> None:
    """Prints what the person should know, a line each; nothing is wrong."""
    for note in notes:
        say(note, style="yellow")
