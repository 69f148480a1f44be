"""`segal backup`: copies a run folder, also one that is at work."""

from pathlib import Path
from typing import Annotated

import typer


def backup(
    run: Annotated[Path, typer.Argument(help="A run folder; it may be at work.")],
    out: Annotated[Path, typer.Argument(help="Where the copy goes; nothing may be there yet.")],
) -> None:
    """Copy a run folder as it is at one moment: its ledger, and the files that it lists.

    The copy is a run folder like any other: the same commands go on with it.
    """
    from segal.runs.backup import back_up
    from segal.system.console import bar, say

    with bar("Copying") as advance:
        made = back_up(run, out, advance)
    say(f"{made.files} files, {made.bytes / 2**20:.1f} MiB")
    typer.echo(out)
