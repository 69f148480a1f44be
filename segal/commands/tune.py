"""`segal tune`: what each tau would pick, from a scan that is there already."""

from pathlib import Path
from typing import Annotated

import typer


def tune(
    scan: Annotated[
        Path | None,
        typer.Option(help="A run folder of `segal select`, or a round such as RUN/rounds/001."),
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(help="512, HEIGHTxWIDTH or image; may be repeated. [default: as scanned]"),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="500 (regions), 2% (of the pixels) or 10img.")
    ] = None,
    taus: Annotated[
        str | None, typer.Option(help="Such as 0,0.1,1. [default: 20 from 0 to 10]")
    ] = None,
    uncertainty: Annotated[
        str | None, typer.Option(help="One that the scan measured. [default: entropy]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
) -> None:
    """Sweep tau and region sizes over a stored scan, and suggest a tau for each size.

    No network runs: what uwe would pick with each tau follows from the scan's table. Writes
    tune.csv, tune.json and tune.png.
    """
    from segal.jobs.tuning.tune import CHART_FILE, as_lines, configure_tuning, run_tuning
    from segal.system.console import say

    given = {
        "scan": scan,
        "regions": region or None,
        "budget": budget,
        "taus": taus,
        "uncertainty": uncertainty,
        "out": out,
    }
    tuning = configure_tuning({k: v for k, v in given.items() if v is not None})
    for line in as_lines(run_tuning(tuning)):
        typer.echo(line)
    say(f"Wrote {tuning.config.out / CHART_FILE}, and the numbers beside it.")
