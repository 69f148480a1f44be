"""A review: what people decided of picks before these are labelled, as the file that a page saves.

A JSON object: `segal-review` (the version of the form), `run` (as in handouts), `phase` and `round`
(of the picks), `picks` (the keys of the tasks that the page showed, in order), `selection` (their
fingerprint), `order` (the same keys in the order that is wanted), and `decisions`, of which each
has a `pick`, a `decision` (`keep` or `skip`) and, where it is skipped, a `reason`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segal.annotation.formats.shared.files import read_json
from segal.errors import SegalError, raise_all
from segal.registry import nearest

KIND = "review"
"""What `segal import --from` calls it."""
VERSION = 1
MARK = "segal-review"
REASONS = {
    "blurred": "nothing can be told from it",
    "private": "it shows what nobody is to see",
    "duplicate": "the same is picked, or labelled, elsewhere",
}
"""Why a pick may be skipped, and what that means."""
MOST_BYTES = 2**26
_EXPECTED = "a review, as the page of segal review saves it"
_REMEDY = "save it again from the page of segal review"
_KEEP, _SKIP = "keep", "skip"
_HEAD = 4096


@dataclass(frozen=True)
class Review:
    """A review that was read; it agrees with itself, and has not been compared with a run yet.

    Attributes:
        path: Where it was read.
        run: The run's key.
        phase: Name of the stage that bought the picks.
        round: Of that stage.
        picks: Keys of the picks that were shown, in order.
        order: The same in the order that is wanted.
        kept: Keys of those that are kept.
        skipped: Reasons, by the keys of those that are skipped.
    """

    path: Path
    run: str
    phase: str
    round: int
    picks: tuple[str, ...]
    order: tuple[str, ...]
    kept: frozenset[str]
    skipped: Mapping[str, str]


def selection_key(picks: Sequence[str]) -> str:
    """The fingerprint of picks in their order.

    Args:
        picks: Keys of their tasks.

    Returns:
        16 hexadecimal digits.

    Examples:
        >>> selection_key(["a", "b"]) == selection_key(["b", "a"])
        False
    """
    return hashlib.sha256(json.dumps(list(picks)).encode()).hexdigest()[:16]


def is_review(path: Path) -> bool:
    """Whether a file begins as a review does; what is wrong with it `read_review` says."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return False
    return f'"{MARK}"'.encode() in head and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def read_review(path: Path) -> Review:
    """Reads a review.

    Raises:
        SegalError: With all that is wrong with it.
    """
    raw = read_json(path, _EXPECTED, MOST_BYTES)
    if raw.get(MARK) != VERSION:
        raise _wrong(path, "not of a kind that is known", f"{MARK}: {VERSION}", raw.get(MARK))
    errors = [
        _wrong(
            path, f"no {key}" if key not in raw else f"{key}: no such value", asked, raw.get(key)
        )
        for key, kind, asked in (
            ("run", str, "a text"),
            ("phase", str, "a text"),
            ("round", int, "a whole number"),
            ("selection", str, "a text"),
            ("picks", list, "a list of texts"),
            ("order", list, "a list of texts"),
            ("decisions", list, "a list of objects"),
        )
        if type(raw.get(key)) is not kind
        or (key in {"picks", "order"} and not all(isinstance(x, str) for x in raw[key]))
    ]
    raise_all(errors)
    picks, order = tuple(raw["picks"]), tuple(raw["order"])
    if len(set(picks)) < len(picks):
        errors.append(_wrong(path, "picks: one is there twice", "each once", _twice(picks)))
    elif selection_key(picks) != raw["selection"]:
        expected = f"selection {selection_key(picks)}, which is that of its picks"
        errors.append(_wrong(path, "the picks were changed", expected, raw["selection"]))
    if sorted(order) != sorted(picks):
        wrong = _twice(order) or sorted(set(order) ^ set(picks))[0]
        errors.append(_wrong(path, "order: not of its picks", "each pick once", wrong))
    kept, skipped = set[str](), dict[str, str]()
    known = set(picks)
    for number, one in enumerate(raw["decisions"], 1):
        found = _decision(path, number, one, known)
        if isinstance(found, SegalError):
            errors.append(found)
            continue
        pick, reason = found
        if pick in kept or pick in skipped:
            problem = f"decision {number}: of a pick that was decided before"
            errors.append(_wrong(path, problem, "one decision a pick", pick))
        elif reason:
            skipped[pick] = reason
        else:
            kept.add(pick)
    raise_all(errors[:20])
    return Review(
        *(path, raw["run"], raw["phase"], raw["round"], picks, order, frozenset(kept), skipped)
    )


def _decision(path: Path, number: int, raw: Any, known: set[str]) -> tuple[str, str] | SegalError:
    """The pick and why it is skipped; no reason where it is kept."""
    where = f"decision {number}"
    if not isinstance(raw, dict):
        return _wrong(path, f"{where}: no object", "pick, decision and reason", raw)
    pick, decision, reason = (raw.get(key) for key in ("pick", "decision", "reason"))
    if not isinstance(pick, str) or pick not in known:
        return _wrong(path, f"{where}: of no pick that the page showed", "one of its picks", pick)
    if decision == _KEEP:
        return pick, ""
    if decision != _SKIP:
        return _wrong(path, f"{where}: no such decision", f"{_KEEP} or {_SKIP}", decision)
    if not isinstance(reason, str) or reason not in REASONS:
        alike = nearest(reason, list(REASONS)) if isinstance(reason, str) else None
        return _wrong(
            path,
            f"{where}: no such reason",
            f"one of {', '.join(REASONS)}",
            reason,
            f"did you mean {alike}?" if alike else _REMEDY,
        )
    return pick, reason


def _twice(keys: Sequence[str]) -> str:
    seen = set[str]()
    return next((key for key in keys if key in seen or seen.add(key)), "")  # type: ignore[func-returns-value]


def _wrong(
    path: Path, problem: str, expected: str, got: object, remedy: str = _REMEDY
) -> SegalError:
    return SegalError(f"{path}: {problem}", expected=expected, got=repr(got)[:100], remedy=remedy)
