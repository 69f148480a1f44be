"""`segal tune`: what each tau would pick, from a scan that is there already."""

from pathlib import Path
from typing import Any

import typer

from segal.commands import options as o


@o.configured(
    o.flag("scan", Path, "A run folder of `segal select`, or a round such as RUN/rounds/001."),
    o.flag(
        "regions",
        list[str],
        "512, HEIGHTxWIDTH or image; may be repeated. [default: as scanned]",
        name="region",
    ),
    o.BUDGET,
    o.flag("taus", str, "Such as 0,0.1,1. [default: 20 from 0 to 10]"),
    o.flag("uncertainty", str, "One that the scan measured. [default: entropy]"),
    o.flag("out", Path, "Folder for the results."),
)
def tune(raw: dict[str, Any]) -> None:
    """Sweep tau and region sizes over a stored scan, and suggest a tau for each size.

    No network runs: what uwe would pick with each tau follows from the scan's table. Writes
    tune.csv, tune.json and tune.png.
    """
    from segal.jobs.tuning.tune import CHART_FILE, as_lines, configure_tuning, run_tuning
    from segal.system.console import say

    tuning = configure_tuning(raw)
    for line in as_lines(run_tuning(tuning)):
        typer.echo(line)
    say(f"Wrote {tuning.config.out / CHART_FILE}, and the numbers beside it.")
