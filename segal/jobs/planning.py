"""From a comparison's configuration to its runs, with all mistakes of all arms at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segal.config import AT_RANDOM, STRATEGY_KEYS, ArmConfig, CompareConfig, RunConfig, validate
from segal.errors import SegalError, SegalErrors, raise_all
from segal.jobs.comparing.arms import Arm, check_costs, check_protocol, steps_by_round
from segal.jobs.strategies import configure_run
from segal.registry import nearest
from segal.reporting.protocol import flat
from segal.runs.run_folder import fingerprint
from segal.strategies.base import Strategy

RUNS_FOLDER, START_FOLDER = "runs", "start"
_OURS = ("out", "seed", "machine")


@dataclass(frozen=True)
class PlannedRun:
    """A run folder of a comparison.

    Attributes:
        title: For people.
        arm: Name of its arm; None for a first round that all arms of a seed share.
        config: As `segal run` takes it.
        strategy: What `config.strategy` names.
        start: The folder that its first round is taken from; None where it does its own.
    """

    title: str
    arm: str | None
    config: RunConfig
    strategy: Strategy
    start: Path | None = None


@dataclass(frozen=True)
class Plan:
    """A comparison that can be run.

    Attributes:
        config: Its configuration.
        arms: In the order of the configuration.
        starts: Runs of nothing but the first round, as arms: one for each way in which arms choose
            their seed sets.
        runs: In the order in which they are done: seed by seed, so that there are complete pairs
            early, each seed's shared first round before its arms.
    """

    config: CompareConfig
    arms: tuple[Arm, ...]
    starts: tuple[Arm, ...]
    runs: tuple[PlannedRun, ...]


def plan_comparison(raw: Mapping[str, Any]) -> Plan:
    """Validates a comparison's configuration, and plans its runs.

    The pool's images are looked at only where arms buy in different units or region sizes.

    Args:
        raw: Keys of `CompareConfig`, as `read_config` gives them.

    Raises:
        SegalError: With all mistakes at once, keys of an arm as `arms.NAME.set.KEY`: values that
            are not valid, names that are given twice or are no arm's, arms of unequal cost, and
            arms that would not run under one protocol, with the settings that differ.
    """
    config, errors = validate(CompareConfig, raw)
    given = config.arms if config is not None else _valid_arms(raw)
    out = config.out if config is not None else Path()
    machine = config.machine.model_dump() if config is not None else {}
    seeds = config.seeds if config is not None else (0,)
    shared = raw.get("run")
    if not isinstance(shared, Mapping):
        raise_all(errors)
        raise AssertionError("expected an error for a comparison without a run")
    errors += _refuse_ours(shared, "run")
    arms: list[Arm] = []
    for arm in sorted(given, key=lambda a: a.full):  # the full arm's steps are those of the others
        own_errors = _refuse_ours(arm.set, f"arms.{arm.name}.set")
        folder = out / RUNS_FOLDER / arm.name
        values = _merged(shared, _full(arm.set, arms) if arm.full else arm.set)
        fixed = {"out": folder, "seed": 0, "machine": machine}
        try:
            run, strategy = configure_run({**values, **fixed})
        except SegalError as error:
            if not own_errors:
                own_errors = _with_names(error, arm)
        else:
            arms.append(Arm(arm.name, arm.full, arm.seeds or seeds, run, strategy))
        errors += own_errors
    if config is not None:
        errors += _check_names(config)
    errors = _once(errors)
    if len(arms) == len(given):
        errors += check_protocol(arms)
        errors += check_costs(arms) if not errors else []
    raise_all(errors)
    assert config is not None
    order = [arm.name for arm in config.arms]
    arms.sort(key=lambda arm: order.index(arm.name))
    starts = _starts(config, arms)
    return Plan(config, tuple(arms), starts, tuple(_runs(config, arms, starts)))


def _valid_arms(raw: Mapping[str, Any]) -> Sequence[ArmConfig]:
    """The arms of a configuration that is wrong elsewhere, so that their mistakes are said too."""
    given = raw.get("arms")
    listed = given if isinstance(given, list | tuple) else []
    return [arm for one in listed if (arm := validate(ArmConfig, one)[0]) is not None]


def _refuse_ours(keys: Mapping[str, Any], prefix: str) -> list[SegalError]:
    remedy = {
        "out": "give the comparison's own out",
        "seed": "give the comparison's own seeds",
        "machine": "give the comparison's own machine",
    }
    return [
        SegalError(
            f"{prefix}.{key}: not valid",
            expected="no such key: the comparison sets it for every run",
            got=repr(keys[key])[:200],
            remedy=remedy[key],
        )
        for key in _OURS
        if key in keys
    ]


def _merged(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's keys over those of all arms; another strategy takes none of the shared parameters.

    A strategy may be given as its name alone.
    """
    first, second = dict(shared), dict(own)
    for key in STRATEGY_KEYS:
        for keys in (first, second):
            if isinstance(keys.get(key), str):
                keys[key] = {"name": keys[key]}
        base, change = first.get(key), second.get(key)
        if isinstance(base, Mapping) and isinstance(change, Mapping):
            name = base.get("name")
            if change.get("name", name) != name:
                del first[key]
    return _deep(first, second)


def _deep(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(first)
    for key, value in second.items():
        inner = merged.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = _deep(inner, value) if both else value  # type: ignore[arg-type]
    return merged


def _full(own: Mapping[str, Any], others: Sequence[Arm]) -> dict[str, Any]:
    """What the fully supervised arm sets: all is labelled at the start, and its training's length.

    With steps in proportion to the labels, from scratch, it takes as many as the last round.
    """
    keys: dict[str, Any] = {
        "strategy": "random",
        "region": "image",
        "seed_set": "100%",
        "seed_strategy": "random",
        "seed_region": "image",
        "budgets": [],
    }
    if others:
        config = others[0].config
        steps = steps_by_round(config)
        total = sum(steps) if config.start == "warm" else steps[-1]
        keys["train"] = {"iterations": total}
    return _deep(keys, own)


def _with_names(error: SegalError, arm: ArmConfig) -> list[SegalError]:
    """An arm's mistakes, each with the key under which it was given: the arm's or the shared."""
    own = list(flat(arm.set))
    named = []
    for one in error.errors if isinstance(error, SegalErrors) else [error]:
        problem = one.problem
        if problem.startswith("unknown strategy"):
            problem = f"strategy.name: {problem}"
        key = problem.partition(":")[0]
        is_own = any(_nested(key, mine) or _nested(mine, key) for mine in own)
        is_key = not key or key.split(".")[0] in RunConfig.model_fields
        where = f"arms.{arm.name}.set" if is_own else "run" if is_key else f"arms.{arm.name}"
        joint = "." if key and is_key else "" if not key else ": "
        named.append(one.renamed(f"{where}{joint}{problem}"))
    return named


def _nested(key: str, other: str) -> bool:
    return bool(key) and (key == other or key.startswith(other + "."))


def _once(errors: Sequence[SegalError]) -> list[SegalError]:
    """A mistake in what all arms share is each arm's; it is said once."""
    return list({(error.problem, error.expected): error for error in errors}.values())


def _check_names(config: CompareConfig) -> list[SegalError]:
    errors: list[SegalError] = []
    names = [arm.name for arm in config.arms]
    folded = [name.casefold() for name in names]
    twice = sorted({name for name in names if folded.count(name.casefold()) > 1})
    if twice:
        errors.append(
            SegalError(
                "arms: names are given twice",
                expected="names that differ, also where upper and lower case are one",
                got=", ".join(twice),
                remedy="give each arm a name of its own",
            )
        )
    keyed = [("seeds", config.seeds)]
    keyed += [(f"arms.{a.name}.seeds", a.seeds) for a in config.arms if a.seeds is not None]
    for key, seeds in keyed:
        if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= s < 2**63 for s in seeds):
            errors.append(
                SegalError(
                    f"{key}: not valid",
                    expected="at least one seed, all different and from 0 to 2^63 - 1",
                    got=", ".join(map(str, seeds)) or "none",
                    remedy="give for example 0,1,2",
                )
            )
    wanted = [("baseline", config.baseline)]
    if config.primary is not None:
        wanted += [("primary.arm", config.primary.arm), ("primary.against", config.primary.against)]
    selecting = [arm.name for arm in config.arms if not arm.full]
    for key, name in wanted:
        if name not in selecting:
            near = nearest(name, selecting)
            errors.append(
                SegalError(
                    f"{key}: no such arm" if name not in names else f"{key}: it selects nothing",
                    expected=f"one of {', '.join(selecting)}",
                    got=repr(name),
                    remedy=f"did you mean {near!r}?" if near else f"give {key} an arm's name",
                )
            )
    if config.primary is not None and config.primary.arm == config.primary.against:
        errors.append(
            SegalError(
                "primary: an arm against itself",
                expected="two different arms",
                got=config.primary.arm,
                remedy="give primary.arm and primary.against different names",
            )
        )
    return errors if errors else _check_pairs(config)


def _check_pairs(config: CompareConfig) -> list[SegalError]:
    seeds = {arm.name: set(arm.seeds or config.seeds) for arm in config.arms}
    pairs = [(arm.name, config.baseline) for arm in config.arms if not arm.full]
    if config.primary is not None:
        pairs.append((config.primary.arm, config.primary.against))
    return [
        SegalError(
            f"arms.{one}.seeds: none of them is a seed of {other!r}",
            expected=f"some of {', '.join(map(str, sorted(seeds[other])))}",
            got=", ".join(map(str, sorted(seeds[one]))),
            remedy="arms are compared at the seeds that both have",
        )
        for one, other in dict.fromkeys(pairs)
        if not seeds[one] & seeds[other]
    ]


def _starts(config: CompareConfig, arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """First rounds alone, by how arms choose their seed sets."""
    alike: dict[str, list[Arm]] = {}
    for arm in arms:
        if not arm.full:
            alike.setdefault(_start_name(arm), []).append(arm)
    return tuple(_start(config, name, selecting) for name, selecting in alike.items())


def _start_name(arm: Arm) -> str:
    """Of the folder of an arm's first round; it says how the seed set is chosen, if not by chance.

    It does not depend on the other arms, so that some may be added later.
    """
    chosen = arm.config.seed_strategy
    if chosen == AT_RANDOM:
        return START_FOLDER
    return f"{START_FOLDER}-{fingerprint(chosen)[:12]}"


def _start(config: CompareConfig, name: str, selecting: Sequence[Arm]) -> Arm:
    """The first round alone; the same whatever the arms are, so that arms may be added later."""
    alone = {
        "strategy": {"name": "random"},
        "region": selecting[0].config.seed_region,
        "budgets": (),
        "measure_picks": False,
        "overlays": 0,
        "target": None,
        "out": config.out / name,
    }
    run, strategy = configure_run({**selecting[0].config.model_dump(), **alone})
    seeds = dict.fromkeys(seed for arm in selecting for seed in arm.seeds)
    return Arm(name, False, tuple(seeds), run, strategy)


def _runs(config: CompareConfig, arms: Sequence[Arm], starts: Sequence[Arm]) -> list[PlannedRun]:
    seeds = dict.fromkeys([*config.seeds, *(seed for arm in arms for seed in arm.seeds)])
    runs = []
    for seed in seeds:
        first: dict[str, Path] = {}
        for start in starts:
            if seed in start.seeds:
                alone = _of_seed(start, seed)
                first[start.name] = alone.out
                chosen = alone.seed_strategy
                by = "" if chosen == AT_RANDOM else f", its seed set by {chosen['name']}"
                title = f"first round of seed {seed}{by}"
                runs.append(PlannedRun(title, None, alone, start.strategy))
        runs += [
            PlannedRun(
                title=f"{arm.name}, seed {seed}",
                arm=arm.name,
                config=_of_seed(arm, seed),
                strategy=arm.strategy,
                start=None if arm.full else first[_start_name(arm)],
            )
            for arm in arms
            if seed in arm.seeds
        ]
    return runs


def _of_seed(arm: Arm, seed: int) -> RunConfig:
    out = arm.config.out / f"seed-{seed}"
    return arm.config.model_copy(update={"seed": seed, "out": out})
