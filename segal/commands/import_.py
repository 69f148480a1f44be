"""`segal import`: takes in what annotators gave back."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer


def import_(
    run: Annotated[Path, typer.Argument(help="Folder of the run that handed the regions out.")],
    files: Annotated[list[Path], typer.Argument(metavar="PATH...", help="What the tool exported.")],
    kind: Annotated[
        str, typer.Option("--from", help="The tool or format. [default: of the last handout]")
    ] = "",
    unpainted: Annotated[
        str, typer.Option(help="Of pixels nobody painted: error, ignore (void), or a class.")
    ] = "error",
    conflicts: Annotated[
        str, typer.Option(help="Of pixels with two labels, neither on top: error or ignore.")
    ] = "error",
    untouched: Annotated[
        str, typer.Option(help="Of the network's drafts that nobody touched: accept or ignore.")
    ] = "accept",
    replace: Annotated[
        bool, typer.Option("--replace", help="Answers may take the place of earlier ones.")
    ] = False,
    annotator: Annotated[str, typer.Option(help="Take only this one's answers.")] = "",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Take the good answers, and tell of the others.")
    ] = False,
    handout: Annotated[
        Path | None, typer.Option(help="The manifest of the handout, if the run cannot tell.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only; book nothing.")] = False,
    images: Annotated[
        Path | None, typer.Option(help="Of a review: where the run's images are, if they moved.")
    ] = None,
) -> None:
    """Take in what annotators gave back, all at once or in parts; what has not come stays open.

    Labels are clipped to their regions and kept with the run, old versions too. segal train
    --labelled RUN trains on them, and segal run goes on with them. What a page of segal review has
    saved is taken in, too.
    """
    from segal.annotation.questions.base import COUNTED, Rules
    from segal.jobs.annotate.bring_in import ImportSettings, import_answers
    from segal.jobs.annotate.choices import check_choices
    from segal.jobs.annotate.decide import are_reviews, import_reviews
    from segal.system.console import say, tell

    if are_reviews(files, kind):
        decided = import_reviews(run, files, images=images, dry_run=dry_run)
        why = ", ".join(f"{many} {reason}" for reason, many in decided.skipped.items())
        tell(*decided.notes)
        say(
            f"{decided.kept} picks are kept, {sum(decided.skipped.values())} skipped"
            + f" ({why})" * bool(why)
            + f", {len(decided.replaced)} took their place; {decided.open} were not decided and "
            "stay" + ", and the order is a new one" * decided.moved + "."
        )
        for pick in decided.replaced:
            x0, y0, x1, y1 = pick.box
            typer.echo(f"{pick.rank} {pick.image} {x0},{y0},{x1 - x0},{y1 - y0}")
        return
    check_choices(kind=kind, conflicts=conflicts, untouched=untouched)
    rules = Rules(
        unpainted,
        cast(Literal["error", "ignore"], conflicts),
        cast(Literal["accept", "ignore"], untouched),
    )
    settings = ImportSettings(kind, rules, replace, annotator, skip_bad, handout, dry_run)
    found = import_answers(run, files, settings)
    tell(*(str(error) for error in found.bad), *found.notes)
    say(
        f"{found.regions} regions came back, {found.replaced} answers replaced earlier ones, "
        f"{found.second} are second opinions, {found.known} were known; {found.open} are open."
    )
    for name, many in found.counts.items():
        if many:
            say(f"  {many} {found.unit} {COUNTED[name]}")
    if found.hours:
        say(f"  {found.hours:.2f} hours of annotators in all")
