"""`segal strategies`: what there is to choose from."""

import json
from typing import Annotated

import typer


def strategies(
    as_json: Annotated[bool, typer.Option("--json", help="For programs to read.")] = False,
) -> None:
    """List the strategies: what they do, which end they pick, their parameters and source."""
    from segal.jobs.strategies import describe_strategies
    from segal.system.console import tell

    found, wrong = describe_strategies()
    tell(*map(str, wrong))
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False, default=str))
        return
    for entry in found:
        parameters = ", ".join(f"{k}={v}" for k, v in entry["parameters"].items())
        typer.secho(entry["name"], bold=True)
        typer.echo(f"  {entry['summary']}")
        typer.echo(f"  picks:      {entry['direction'] or 'not by a score'}")
        typer.echo(f"  measures:   {', '.join(entry['signals']) or 'nothing'}")
        typer.echo(f"  parameters: {parameters}")
        if entry["spread"]:
            typer.echo(f"  options:    {', '.join(f'spread.{key}' for key in entry['spread'])}")
        if entry["presets"]:
            typer.echo(f"  presets:    {', '.join(entry['presets'])}")
        typer.echo(f"  source:     {entry['source']}")
        if entry["from"] != "segal":
            typer.echo(f"  from:       {entry['from']}")
