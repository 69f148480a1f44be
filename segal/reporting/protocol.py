"""Which runs may be drawn together: those that differ in what is compared, and in nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

from segal.errors import SegalError
from segal.models.spec import DEFAULT_TASK
from segal.runs.history import History
from segal.runs.ledger import Ledger
from segal.runs.run_folder import canonical, fingerprint
from segal.tasks import find_task

_COMPARED = {"strategy", "region", "extra_regions", "seed", "budgets", "seed_strategy"}
_NOT_OF_THE_RESULT = {"overlays", "measure_picks"}
OF_THE_FULL_ARM = frozenset(
    {
        *("seed_set", "seed_region", "steps", "start", "target"),
        *("train.iterations", "train.validate_every", "train.patience"),
    }
)
"""Settings, by dotted key, that a fully supervised arm may have for itself."""
OF_A_STRATEGY = ("train.learning_loss", "train.mial")
"""What is trained for one strategy alone: arms may differ in it, as they do in strategy."""
_SHOWN_DIFFERENCES = 12


def is_full(history: History) -> bool:
    """Whether a run is fully supervised: its seed set covers the pool, and it buys nothing."""
    charged = sum(purchase.pixels or 0 for purchase in history.seed_set)
    return not history.configuration.get("budgets") and charged == history.pool_pixels


def check_protocol(histories: Sequence[History]) -> None:
    """Raises unless all runs are of one protocol.

    Runs may differ in strategy, seed strategy, region sizes, seed and budgets. The fully supervised
    ones may also differ in what they train on, where they start and how long they train.

    Args:
        histories: In any order.

    Raises:
        SegalError: If another setting differs, or the images of the pool or the labels that they
            are evaluated on do, with both runs' values; or if runs of one seed and seed
            strategy have another seed set, or a region was bought with another label.
    """
    ordinary = [history for history in histories if not is_full(history)]
    if not histories:
        return
    first = (ordinary or histories)[0]
    expected = _protocol(first)
    lines, differing = [], set()
    for history in histories:
        exempt = OF_THE_FULL_ARM if is_full(history) and ordinary else frozenset()
        protocol = _protocol(history)
        for key in sorted(expected.keys() | protocol.keys()):
            here, there = expected.get(key, "not set"), protocol.get(key, "not set")
            if here != there and key not in exempt and key not in differing:
                differing.add(key)
                lines.append(f"\n    {key}: {here} in {first.folder}, {there} in {history.folder}")
    if lines:
        more = len(lines) - _SHOWN_DIFFERENCES
        shown = lines[:_SHOWN_DIFFERENCES] + ([f"\n    and {more} more"] if more > 0 else [])
        raise SegalError(
            "these runs are not of one protocol, and cannot be drawn together",
            expected="runs that differ in strategy, seed_strategy, region sizes, seed and budgets "
            "only",
            got="runs that differ in" + "".join(shown),
            remedy="report on the runs of each protocol by themselves",
        )
    _check_seed_sets(histories)
    _check_labels(histories)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """By dotted key, every setting as canonical JSON."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = canonical(value)
    return found


def compared(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings by dotted key, without what is trained for one strategy alone."""
    return {k: v for k, v in flat(settings).items() if not k.startswith(OF_A_STRATEGY)}


def own_settings(history: History) -> dict[str, Any]:
    """What a run may have for itself: what is compared, and what is trained for its strategy."""
    settings = history.configuration
    trained = {k: v for k, v in flat(settings).items() if k.startswith(OF_A_STRATEGY)}
    return {k: v for k, v in settings.items() if k in _COMPARED} | trained


def alike_notes(settings: Mapping[str, object]) -> list[str]:
    """Flags arms that differ in nothing but their name.

    Args:
        settings: By arm name, all that its results depend on beside the seed; what JSON can hold.
    """
    groups: dict[str, list[str]] = {}
    for name, values in settings.items():
        groups.setdefault(canonical(values), []).append(name)
    return [
        f"{' and '.join(names)} are the same settings under {len(names)} names: whatever they "
        "differ by is not the settings."
        for names in groups.values()
        if len(names) > 1
    ]


def settings_of_arm(run: History) -> dict[str, Any]:
    """What tells a run's arm from others of its protocol: its own settings but for the seed."""
    return {k: v for k, v in own_settings(run).items() if k != "seed"} | {"full": is_full(run)}


def shared_settings(history: History) -> dict[str, str]:
    """By dotted key, the settings that all runs of a protocol share."""
    left_out = _COMPARED | _NOT_OF_THE_RESULT
    return compared({k: v for k, v in history.configuration.items() if k not in left_out})


def _protocol(history: History) -> dict[str, str]:
    protocol = shared_settings(history)
    task = find_task(str(history.configuration.get("task", DEFAULT_TASK)))
    elements = task.metric.elements
    protocol["the pool"] = (
        f"{history.pool_images} images, {history.pool_pixels} {elements}, "
        f"contents {_pool_contents(history)[:12]}"
    )
    protocol["reported on"] = history.report_split
    if history.rounds:
        protocol["judged by"] = history.metric.title
        protocol["classes"] = canonical(history.class_names)
        labels = fingerprint(history.metric.labelled(history.metrics[0]))
        protocol["labels of what is reported on"] = labels[:12]
    return protocol


def _pool_contents(history: History) -> str:
    with Ledger.read(history.folder) as ledger:
        images = ledger.known_images()
    return fingerprint({path: info.digest for path, (_, _, info) in images.items()})


def _check_seed_sets(histories: Sequence[History]) -> None:
    """Runs of one seed start from the same pixels: else their difference is luck with these.

    But for those that choose them by another strategy.
    """
    first: dict[object, History] = {}
    for history in histories:
        if is_full(history):
            continue
        seed = history.configuration.get("seed")
        chosen = canonical(history.configuration.get("seed_strategy"))
        other = first.setdefault((seed, chosen), history)
        here, there = (sorted((p.image, p.box) for p in h.seed_set) for h in (history, other))
        if here != there:
            raise SegalError(
                f"{history.folder}: another seed set than that of {other.folder}, at seed {seed}",
                expected="the same seed set in all runs of a seed",
                got=f"{len(here)} regions, of which {len(set(here) - set(there))} are others",
                remedy="run both again with the same data and version of segal",
            )


def _check_labels(histories: Sequence[History]) -> None:
    """Runs are trained on the same labels, as far as these are known: one may be corrected."""
    first: dict[tuple[str, object], tuple[str, History]] = {}
    for history in histories:
        for bought in (history.seed_set, *(r.bought for r in history.rounds)):
            for purchase in bought:
                if purchase.label is None:
                    continue
                label, other = first.setdefault(
                    (purchase.image, purchase.box), (purchase.label, history)
                )
                if label != purchase.label:
                    raise SegalError(
                        f"{history.folder}: trained on another label of {purchase.image} than "
                        f"{other.folder}",
                        expected="the same labels in all runs",
                        got=f"labels that differ at {purchase.box}, such as where one was "
                        "corrected between the runs",
                        remedy="give the segal compare or segal run of both again, which trains "
                        "again what depends on it",
                    )
