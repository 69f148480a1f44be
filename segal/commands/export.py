"""`segal export`: hands a run's picks out to annotators."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer


def export(
    run: Annotated[Path, typer.Argument(help="Folder of segal select or segal run.")],
    to: Annotated[str, typer.Option(help="The tool or format; an unknown name lists them.")],
    out: Annotated[Path, typer.Option(help="Folder of the handout.")],
    mode: Annotated[
        str, typer.Option(help="context: whole images, the region marked; crop: crops of them.")
    ] = "context",
    pad: Annotated[int, typer.Option(min=0, max=4096, help="Pixels around a crop's region.")] = 32,
    annotators: Annotated[
        str, typer.Option(help="Shares the tasks out: a number, or names with commas.")
    ] = "",
    overlap: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the tasks that two annotators get.")
    ] = 0.0,
    drafts: Annotated[
        bool, typer.Option("--drafts", help="With what the network says, to be corrected.")
    ] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The network of the drafts, if it is not the run's.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Where the images (of a run, the data set) are now.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Names of the classes, a line each, if they are not known.")
    ] = None,
    image_url: Annotated[
        str, typer.Option(help="Where Label Studio finds an image; {file} is its path.")
    ] = "/data/local-files/?d={file}",
    round: Annotated[int | None, typer.Option(min=0, help="Of this round only.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also regions that came back already.")
    ] = False,
) -> None:
    """Hand the picks of a run out to annotators, as tasks of a tool or as files.

    What comes back is taken in by segal import, all at once or in parts.
    """
    from segal.jobs.annotate.choices import check_choices
    from segal.jobs.annotate.export import ExportSettings, export_run, named_annotators
    from segal.system.console import say, tell

    check_choices(to=to, mode=mode)
    if overlap and not annotators:
        annotators = "2"
    settings = ExportSettings(
        *(to, out, cast(Literal["context", "crop"], mode), pad),
        annotators=named_annotators(annotators),
        overlap=overlap,
        drafts=drafts,
        checkpoint=checkpoint,
        images=images,
        classes=classes,
        image_url=image_url,
        round=round,
        open_only=not again,
    )
    exported = export_run(run, settings)
    tell(*exported.notes)
    say(f"{len(exported.handout.by_key)} regions for {to}, in the order of the picks:")
    for file in exported.files[:20]:
        typer.echo(file)
    if len(exported.files) > 20:
        say(f"and {len(exported.files) - 20} more files")
