"""From raw values to a configuration and a strategy, with all their mistakes."""

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from segal.config import validate
from segal.errors import SegalError
from segal.strategies import STRATEGIES
from segal.strategies.base import PassContext, Strategy


def configure_strategy(raw: object) -> tuple[Strategy | None, list[SegalError]]:
    """Makes the strategy that a configuration names.

    Args:
        raw: A mapping with `name` and the strategy's parameters.

    Returns:
        The strategy (None if there are mistakes), and the mistakes.
    """
    if not isinstance(raw, Mapping) or not isinstance(raw.get("name"), str):
        return None, [
            SegalError(
                "strategy: not valid",
                expected="a name, or a mapping with name and parameters",
                got=repr(raw),
                remedy="give for example strategy: {name: uwe, tau: 1.0}",
            )
        ]
    parameters: dict[str, Any] = {k: v for k, v in raw.items() if k != "name"}
    try:
        kind = STRATEGIES.get(raw["name"])
    except SegalError as error:
        return None, [error]
    return validate(kind, parameters, "strategy")


def describe_strategies() -> list[dict[str, Any]]:
    """Every registered strategy with its defaults, as `segal strategies --json` prints it."""
    described: list[dict[str, Any]] = []
    for name in STRATEGIES:
        kind = STRATEGIES.get(name)
        strategy = kind()
        parameters = {f.name: getattr(strategy, f.name) for f in fields(strategy)}  # type: ignore[arg-type]
        passes = list(strategy.passes(PassContext()))
        described.append(
            {
                "name": name,
                "summary": (inspect.getdoc(kind) or "").split("\n")[0],
                "direction": strategy.direction,
                "parameters": parameters,
                "signals": [signal.column for signals in passes for signal in signals],
                "uses_reference_labels": strategy.uses_reference_labels,
                "source": strategy.source,
            }
        )
    return described
