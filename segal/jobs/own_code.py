"""Code of others that a configuration names: it belongs to what identifies a run."""

from collections.abc import Iterator, Mapping
from typing import Any

from segal.config import STRATEGY_KEYS, RunConfig, SelectConfig, TrainConfig
from segal.data.exclusion import Exclusion
from segal.models.sources import own, source_of
from segal.strategies import STRATEGIES
from segal.system.source_code import source_digest

_CODE = "code"


def identity_of(config: SelectConfig | RunConfig | TrainConfig) -> dict[str, Any]:
    """What results depend on, with the source of the network and the strategy that are not segal's.

    Returns:
        As `Section.identity`. Where `model` or a strategy name code by import path or entry point,
        they have a key `code` more: digests by import path, None where no source can be read.
        Where something is excluded there is its digest as `exclude`.

    Raises:
        SegalError: As `Section.identity` does.
    """
    named = config.identity()
    paths = {"model": _of_network(config.model.architecture)}
    if not isinstance(config, TrainConfig):
        paths["strategy"] = _of_strategy(config.strategy)
    if isinstance(config, RunConfig):
        paths["seed_strategy"] = _of_strategy(config.seed_strategy)
    for section, found in paths.items():
        code = {path: source_digest(path) for path in found}
        if code:
            named[section] = {**named[section], _CODE: code}  # type: ignore[dict-item]
    if config.exclude is not None:
        named["exclude"] = Exclusion.open(config.exclude).digest()
    return named


def code_notes(identity: Mapping[str, Any]) -> list[str]:
    """What a user should know of the code in an identity."""
    return [
        f"{path}: its source cannot be read, so that a change of it would go unnoticed; give "
        "another --out after one."
        for section in ("model", *STRATEGY_KEYS)
        for path, digest in identity.get(section, {}).get(_CODE, {}).items()
        if digest is None
    ]


def _of_network(architecture: str | None) -> Iterator[str]:
    if architecture and source_of(architecture) is own.SOURCE:
        yield architecture


def _of_strategy(strategy: Mapping[str, Any]) -> Iterator[str]:
    name, uncertainty = str(strategy["name"]), str(strategy.get("uncertainty", ""))
    yield from (path for path in (name, uncertainty) if ":" in path)
    if ":" not in name and name not in STRATEGIES:
        yield from (plugin.entry.value for plugin in STRATEGIES.plugins() if plugin.name == name)
