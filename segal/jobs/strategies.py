"""From raw values to a configuration and a strategy, with all their mistakes."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, TypeVar

from segal.candidates.budget import Budget
from segal.config import AT_RANDOM, RunConfig, SelectConfig, validate
from segal.errors import SegalError, SegalErrors, raise_all
from segal.jobs.cold_start import architecture_of
from segal.jobs.exclusions import unfit_exclusion
from segal.jobs.losses import TrainedBy, loss_notes
from segal.jobs.network import check_training, two_sources
from segal.jobs.prices import unfit_budgets
from segal.jobs.reference import unmet_needs
from segal.models.wrapped import Model, NoHeadError
from segal.signals import (
    AsksOfNetwork,
    Discrepancy,
    OfFeatures,
    ReadsAdded,
    ReadsLossPrediction,
    Signal,
)
from segal.strategies import STRATEGIES
from segal.strategies.base import PassContext, Strategy
from segal.strategies.spread import Spread, spread
from segal.tasks import TASKS, find_task, task_of

Config = TypeVar("Config", SelectConfig, RunConfig)

_DEFAULT = "uwe"
_SEED = "seed_strategy"
_SPREAD = "spread"
"""The option of every strategy that orders by a score; no parameter of its own has that name."""


def configure_selection(raw: Mapping[str, Any]) -> tuple[SelectConfig, Strategy]:
    """Validates a selection's configuration and makes the strategy that it names.

    Args:
        raw: As `read_config` gives it; a strategy without a name is `uwe`.

    Raises:
        SegalError: With all mistakes at once.
    """
    return _configure(SelectConfig, raw)


def configure_run(raw: Mapping[str, Any]) -> tuple[RunConfig, Strategy]:
    """Validates the configuration of rounds, likewise."""
    return _configure(RunConfig, raw)


def _configure(kind: type[Config], raw: Mapping[str, Any]) -> tuple[Config, Strategy]:
    named = raw.get("strategy", {})
    unknown: list[SegalError] = []
    if isinstance(named, Mapping):
        named, unknown = _with_preset({"name": _DEFAULT, **named})
        named = {**_of_task(raw.get("task"), str(named["name"])), **named}
    values = {**raw, "strategy": named}
    if kind is RunConfig and _SEED in raw:
        values[_SEED], further = _with_preset(_with_name(raw[_SEED]), _SEED)
        unknown += further
    config, mistakes = validate(kind, values)
    strategy, further = _make(named)
    mistakes += unknown
    if kind is RunConfig:
        further += _unfit_seed(values.get(_SEED, AT_RANDOM))
    raise_all(mistakes + further)
    assert config is not None
    assert strategy is not None
    mistakes = _unfit(config) + unfit_budgets(config) + unfit_exclusion(config, strategy)
    mistakes += unmet_needs(config, strategy) + _untrained(config, strategy)
    mistakes += _of_training(config, strategy) + _unpriced_seed(config)
    mistakes += _of_encoder(config, strategy)
    raise_all(mistakes)
    return config, strategy


def seed_strategy(config: RunConfig) -> Strategy:
    """The strategy that chooses the seed set of a run, whose configuration is validated."""
    strategy, mistakes = _make(config.seed_strategy, _SEED)
    raise_all(mistakes)
    assert strategy is not None
    return strategy


def _unfit_seed(named: object) -> list[SegalError]:
    """What is wrong with the strategy of a seed set."""
    strategy, mistakes = _make(named, _SEED)
    if strategy is not None and not goes_by_features(strategy):
        mistakes.append(not_by_features(strategy, _SEED))
    return mistakes


def _unpriced_seed(config: SelectConfig | RunConfig) -> list[SegalError]:
    """A seed set whose price nobody knows before it is labelled, for a strategy that plans."""
    if not isinstance(config, RunConfig) or config.seed_strategy == AT_RANDOM:
        return []
    if Budget.parse(config.seed_set).unit != "boxes":
        return []
    return [
        SegalError(
            f"{_SEED}: {config.seed_strategy['name']}, for a seed set counted in boxes",
            expected="a seed set in images, or a share: nobody has counted the boxes yet",
            got=f"seed_set: {config.seed_set}",
            remedy="give seed_set such as 20img",
        )
    ]


def _of_encoder(config: SelectConfig | RunConfig, strategy: Strategy) -> list[SegalError]:
    """What does not go with an encoder alone, without a trained network."""
    if not isinstance(config, SelectConfig) or config.model.encoder_weights is None:
        return []
    if config.checkpoint is not None:
        return [two_sources(config.checkpoint, config.model.encoder_weights)]
    errors = [] if goes_by_features(strategy) else [not_by_features(strategy, "strategy")]
    try:
        architecture_of(config)
    except SegalError as error:
        errors.append(error)
    return errors


def goes_by_features(strategy: Strategy) -> bool:
    """Whether a strategy asks for nothing but features, which an encoder gives before training."""
    return all(isinstance(signal, OfFeatures) for signal in _first_signals(strategy))


def by_features() -> list[str]:
    """Names of the strategies that do, as they are by default."""
    return [name for name in STRATEGIES if goes_by_features(STRATEGIES.get(name)())]


def not_by_features(strategy: Strategy, key: str) -> SegalError:
    """The error of a strategy that goes by more.

    Args:
        strategy: The strategy.
        key: That names it.
    """
    asked = [s.column for s in _first_signals(strategy) if not isinstance(s, OfFeatures)]
    return SegalError(
        f"{key}: {_name_of(strategy)} goes by what a trained network gives",
        expected=f"a strategy that needs features alone: {', '.join(by_features())}",
        got=f"{_name_of(strategy)}, which measures {', '.join(asked)}",
        remedy="choose one of these",
    )


def _with_name(value: object) -> Any:
    """A strategy that may be given as its name alone."""
    return {"name": value} if isinstance(value, str) else value


def _of_task(task: object, name: str) -> dict[str, Any]:
    """Parameters of a strategy that are others where networks are asked something else."""
    if name not in STRATEGIES or task not in TASKS:
        return {}
    usual = {field.name for field in fields(STRATEGIES.get(name))}  # type: ignore[arg-type]
    defaults = find_task(str(task)).strategy_defaults
    return {key: value for key, value in defaults.items() if key in usual}


def _unfit(config: SelectConfig | RunConfig) -> list[SegalError]:
    """Region sizes that cannot be bought."""
    sizes = {config.region}
    sizes |= set(config.extra_regions) if isinstance(config, SelectConfig) else {config.seed_region}
    errors = []
    for size in sorted(sizes):
        try:
            find_task(config.task).check_region(size)
        except SegalError as error:
            errors.append(error)
    return errors


def _with_preset(named: Any, key: str = "strategy") -> tuple[Any, list[SegalError]]:
    """The parameters that a preset stands for, beneath those that are given; or what is wrong."""
    if not isinstance(named, Mapping):
        return named, []
    preset = named.get("preset")
    named = {name: value for name, value in named.items() if name != "preset"}
    if preset is None:
        return named, []
    try:
        presets = getattr(STRATEGIES.get(str(named.get("name"))), "presets", {})
    except SegalError:
        return named, []  # `_make` says so
    if preset in presets:
        return {**presets[preset], **named}, []
    there = ", ".join(presets)
    return named, [
        SegalError(
            f"{key}.preset: unknown to {named['name']}",
            expected=f"one of {there}" if there else "no preset: it has none",
            got=repr(preset),
            remedy="see `segal strategies`, or leave it out",
        )
    ]


def _untrained(config: SelectConfig | RunConfig, strategy: Strategy) -> list[SegalError]:
    """What a strategy reads off the network and the configured training does not train."""
    if not isinstance(config, RunConfig):
        return []
    asked = {
        "learning_loss": (ReadsLossPrediction, "a loss-prediction module"),
        "mial": (Discrepancy, "class heads trained to disagree"),
    }
    signals = _first_signals(strategy)
    return [
        SegalError(
            f"train.{key}: false",
            expected=f"{what}, which {config.strategy['name']} picks by",
            got="another training",
            remedy=f"give train.{key}=true",
        )
        for key, (kind, what) in asked.items()
        if getattr(config.train, key) is None and any(isinstance(one, kind) for one in signals)
    ]


def _of_training(config: SelectConfig | RunConfig, strategy: Strategy) -> list[SegalError]:
    """What of a training does not go with the task, or with the strategy."""
    if not isinstance(config, RunConfig):
        return []
    errors: list[SegalError] = []
    trained = TrainedBy.settings(config.train)
    for check in (partial(check_training, config), partial(notes_of_loss, strategy, trained)):
        try:
            check()
        except SegalErrors as several:
            errors += several.errors
        except SegalError as error:
            errors.append(error)
    return errors


def notes_of_loss(strategy: Strategy, trained: TrainedBy) -> list[str]:
    """What to tell of a strategy that goes by another loss than the network is trained by.

    Args:
        strategy: The strategy.
        trained: What the network is trained by.

    Raises:
        SegalError: As `loss_notes`.
    """
    return loss_notes(_first_signals(strategy), trained, _name_of(strategy))


def _name_of(strategy: Strategy) -> str:
    return getattr(strategy, "name", type(strategy).__name__)  # those of others need not have it


def check_network(strategy: Strategy, model: Model) -> None:
    """Raises a SegalError if a network does not run, or has not what a strategy asks for.

    Args:
        strategy: The strategy.
        model: The network, trained or not, in `eval()` mode.
    """
    model.check()
    check_signals(_first_signals(strategy), model, _name_of(strategy))


def check_signals(signals: Sequence[Signal], model: Model, asking: str) -> None:
    """Raises a SegalError if a network has not what signals ask for.

    Args:
        signals: What is to be measured.
        model: The network, in `eval()` mode.
        asking: Who asks for them, as the message says it.
    """
    task = task_of(model.spec)
    for signal in map(task.measured, signals):
        if not isinstance(signal, AsksOfNetwork):
            continue
        try:
            signal.check(model)
        except NoHeadError as error:
            others = [name for name in STRATEGIES if _would_do(STRATEGIES.get(name)(), model)]
            raise SegalError(
                f"{asking}: {error.problem}",
                expected=error.expected,
                got=error.got,
                remedy=f"{', '.join(others)} would work with this network; or {error.remedy}",
            ) from error


def _would_do(strategy: Strategy, model: Model) -> bool:
    """Whether a network has what a strategy asks of it."""
    for signal in map(task_of(model.spec).measured, _first_signals(strategy)):
        if isinstance(signal, ReadsAdded) and not signal.was_added(model):
            return False
        if isinstance(signal, AsksOfNetwork):
            try:
                signal.check(model)
            except SegalError:
                return False
    return True


def _first_signals(strategy: Strategy) -> Sequence[Signal]:
    return next(iter(strategy.passes(PassContext())), [])


def _make(named: object, of: str = "strategy") -> tuple[Strategy | None, list[SegalError]]:
    if not isinstance(named, Mapping):
        return None, []  # the configuration's own check says so
    try:
        kind = STRATEGIES.get(str(named.get("name", "")))
    except SegalError as error:
        return None, [error]
    if not _is_strategy(kind):
        return None, [_no_strategy(str(named["name"]), kind)]
    own = {key: value for key, value in named.items() if key not in ("name", _SPREAD)}
    strategy, mistakes = validate(kind, own, of)
    given = named.get(_SPREAD)
    if given is None:
        return strategy, mistakes
    apart, further = validate(Spread, given, f"{of}.{_SPREAD}")
    if getattr(kind, "direction", None) is None:
        further.append(_not_ordered(str(named["name"]), of))
    if strategy is None or apart is None:
        return None, mistakes + further
    return spread(strategy, apart), mistakes + further


def strategy_of(configuration: Mapping[str, Any]) -> Strategy:
    """The strategy of a run, as its ledger has it.

    Args:
        configuration: Of the run.

    Raises:
        SegalError: If it is not there any more.
    """
    named = {key: value for key, value in configuration["strategy"].items() if key != "code"}
    strategy, errors = _make(named)
    raise_all(errors)
    assert strategy is not None
    return strategy


def _not_ordered(name: str, key: str) -> SegalError:
    ordered = [one for one in STRATEGIES if STRATEGIES.get(one).direction is not None]
    return SegalError(
        f"{key}.{_SPREAD}: {name} does not order by a score",
        expected=f"one of {', '.join(ordered)}",
        got=name,
        remedy=f"leave {key}.{_SPREAD} out",
    )


def _is_strategy(kind: object) -> bool:
    """Whether what an import path led to is a strategy's class."""
    has_methods = all(hasattr(kind, name) for name in ("passes", "select"))
    return isinstance(kind, type) and is_dataclass(kind) and has_methods


def _no_strategy(name: str, got: object) -> SegalError:
    return SegalError(
        f"{name}: not a strategy",
        expected="a dataclass with the methods passes and select",
        got=f"{got!r}",
        remedy="see docs/adding_a_strategy.md, or choose one of `segal strategies`",
    )


def describe_strategies() -> tuple[list[dict[str, Any]], list[SegalError]]:
    """Every strategy with its defaults, as `segal strategies --json` prints it.

    Returns:
        segal's own, then those of other packages; and what is wrong with further ones of these.
    """
    described = [_describe(name, STRATEGIES.get(name), "segal") for name in STRATEGIES]
    wrong = []
    for plugin in STRATEGIES.plugins():
        try:
            described.append(_describe(plugin.name, STRATEGIES.load(plugin), plugin.package))
        except SegalError as error:
            wrong.append(error)
    return described, wrong


def _describe(name: str, kind: Any, package: str) -> dict[str, Any]:
    if not _is_strategy(kind):
        raise _no_strategy(f"{name} of {package}", kind)
    try:
        strategy = kind()
        return {
            "name": name,
            "from": package,
            "summary": (inspect.getdoc(kind) or "").split("\n")[0],
            "direction": strategy.direction,
            "parameters": {f.name: getattr(strategy, f.name) for f in fields(kind)},
            "spread": [f.name for f in fields(Spread)] if strategy.direction else [],
            "signals": [signal.column for signal in _first_signals(strategy)],
            "presets": sorted(getattr(kind, "presets", {})),
            "uses_reference_labels": strategy.uses_reference_labels,
            "source": strategy.source,
        }
    except Exception as error:  # whatever the package's own code raises
        raise SegalError(
            f"{name} of {package}: cannot be described",
            expected="a default for every parameter, and what docs/adding_a_strategy.md asks for",
            got=f"{type(error).__name__}: {error}"[:300],
            remedy=f"mend or uninstall {package}",
        ) from error
