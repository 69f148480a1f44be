"""From raw values to a configuration and a strategy, with all their mistakes."""

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from segal.config import SelectConfig, validate
from segal.errors import SegalError, raise_all
from segal.strategies import STRATEGIES
from segal.strategies.base import PassContext, Strategy

_DEFAULT = "uwe"


def configure_selection(raw: Mapping[str, Any]) -> tuple[SelectConfig, Strategy]:
    """Validates a selection's configuration and makes the strategy that it names.

    Args:
        raw: As `read_config` gives it; a strategy without a name is `uwe`.

    Raises:
        SegalError: With all mistakes at once.
    """
    named = raw.get("strategy", {})
    if isinstance(named, Mapping):
        named = {"name": _DEFAULT, **named}
    config, errors = validate(SelectConfig, {**raw, "strategy": named})
    strategy, strategy_errors = _make(named)
    raise_all([*errors, *strategy_errors])
    assert config is not None
    assert strategy is not None
    return config, strategy


def _make(named: object) -> tuple[Strategy | None, list[SegalError]]:
    if not isinstance(named, Mapping):
        return None, []  # the configuration's own check says so
    try:
        kind = STRATEGIES.get(str(named["name"]))
    except SegalError as error:
        return None, [error]
    return validate(kind, {k: v for k, v in named.items() if k != "name"}, "strategy")


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
