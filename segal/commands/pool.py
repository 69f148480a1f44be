"""`segal pool`: images are added to a run, moved, and withdrawn from it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segal.commands.options import Help

if TYPE_CHECKING:
    from segal.jobs.pool.adding import PoolEdit

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    add_help_option=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def callback(help: Help = False) -> None:
    """Add images to a run, move them, or withdraw them."""


Run = Annotated[Path, typer.Argument(help="Folder of the run.")]
Images = Annotated[
    Path | None, typer.Option(help="Where the data set or the images are, if they moved.")
]
Reason = Annotated[str, typer.Option(help="Kept in the ledger.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


@app.command()
def add(
    run: Run,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGE]...", help="Below the folder of images; all that are new by default."
        ),
    ] = None,
    images: Images = None,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Add images that were put into the data set; they are on offer from the next selection on."""
    from segal.jobs.pool.adding import add_images

    edit = add_images(run, names or [], images=images, reason=reason, dry_run=dry_run)
    _say(edit, "added", dry_run)


@app.command()
def move(run: Run, images: Images = None, reason: Reason = "", dry_run: DryRun = False) -> None:
    """Find images whose files were moved or renamed, by their content; the run goes on with them.

    In the run they keep the names that they had first.
    """
    from segal.jobs.pool.adding import move_images

    edit = move_images(run, images=images, reason=reason, dry_run=dry_run)
    _say(edit, "moved", dry_run)


@app.command()
def withdraw(
    run: Run,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE]...", help="As selection.csv names them.")
    ] = None,
    box: Annotated[
        str, typer.Option(help="Of one image: x,y,width,height of what is withdrawn of it.")
    ] = "",
    listed: Annotated[
        Path | None,
        typer.Option("--list", help="A text file of images, or a CSV of regions as selection.csv."),
    ] = None,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Withdraw images, or a region, for good: not offered again, nor trained on; files removed.

    What they cost stays booked. The networks of segal run that saw them are trained again when it
    goes on.
    """
    from segal.jobs.pool.asked import what_is_asked
    from segal.jobs.pool.withdrawing import withdraw as take_out
    from segal.system.console import say, tell

    found = take_out(run, what_is_asked(names or [], box, listed), reason=reason, dry_run=dry_run)
    would = "would be " if dry_run else ""
    for one in found.changes:
        typer.echo(f"{one.image}" + (f" at {list(one.box)}" if one.box else ""))
    for file in found.files:
        typer.echo(f"{would}removed: {file}")
    say(
        f"{len(found.changes)} {would}withdrawn, and {len(found.files)} files {would}removed, of "
        f"which {found.answers} are answers. {found.regions} regions were bought of it: "
        f"{found.pixels} pixels, which stay booked."
    )
    if found.since is not None:
        say(f"The networks from round {found.since} on are trained again by the same segal run.")
    tell(*found.notes)
    tell(
        "Not reached from here: handouts and what tools hold of them, backups, the image files, "
        "and networks that segal train or others trained on these labels."
    )


@app.command()
def show(run: Run) -> None:
    """Show how the pool of a run has changed."""
    from segal.runs.ledger import Ledger

    with Ledger.read(run) as ledger:
        for one in ledger.pool_log.changes:
            what = one.image or one.digest[:16]
            more = f" {list(one.box)}" if one.box else ""
            more += f", now {one.file}" if one.file else ""
            more += f": {one.reason}" if one.reason else ""
            typer.echo(f"{one.made}  {one.kind:8}  {what}{more}")


def _say(edit: "PoolEdit", done: str, dry_run: bool) -> None:
    from segal.system.console import say, tell

    for one in edit.changes:
        typer.echo(one.image + (f" is {one.file} now" if one.file else ""))
    say(f"{len(edit.changes)} images {'would be ' * dry_run}{done}.")
    tell(*edit.notes)
