"""Reads configurations: a file, then `key.path=value`, then flags; all mistakes at once."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from segal.errors import SegalError, raise_all
from segal.registry import nearest

T = TypeVar("T")
Raw = dict[str, Any]

STRATEGY_KEYS = ("strategy", "seed_strategy")
"""Keys that hold a strategy, with its parameters, which are no other strategy's."""

_MAX_CONFIG_BYTES = 1 << 20
_MAPPINGS = ("{", "[{")
_PLAIN = {
    **dict.fromkeys(("tuple_type", "list_type"), "a list such as [a, b]"),
    **dict.fromkeys(("dict_type", "model_type", "dataclass_type"), "a mapping of keys to values"),
}
"""What pydantic expects in Python's terms, in a user's."""


def read_config(file: Path | None, overrides: Sequence[str], flags: Mapping[str, object]) -> Raw:
    """Merges a file, overrides and flags; later ones win.

    Args:
        file: A YAML file, or None.
        overrides: `key.path=value` texts; `null` is no value, and `{...}` or `[{...}]` is YAML.
        flags: Values by dotted key; None stands for a flag that was not given.

    Returns:
        A nested dictionary, not validated yet.

    Raises:
        SegalError: If the file cannot be read, or overrides are not of that form.
    """
    raw = _read_yaml(file) if file is not None else {}
    for key in STRATEGY_KEYS:
        if isinstance(raw.get(key), str):
            raw[key] = {"name": raw[key]}
    errors = []
    items: list[tuple[str, object]] = []
    for override in overrides:
        key, separator, text = override.partition("=")
        if separator and all(key.split(".")):
            try:
                items.append((key, _scalar(text) if _is_yaml(key, text) else _nothing(text)))
            except yaml.YAMLError as error:
                errors.append(_not_yaml(key, text, error))
        else:
            errors.append(
                SegalError(
                    f"override {override!r}",
                    expected="key.path=value, such as strategy.tau=0.5",
                    got=repr(override),
                    remedy="write it with dots and one equals sign, or use a flag",
                )
            )
    raise_all(errors)
    items += [(key, value) for key, value in flags.items() if value is not None]
    # A strategy's name comes first: another strategy takes none of the file's parameters.
    for key, value in sorted(items, key=lambda item: _strategy_named(item[0]) is None):
        _set(raw, key, value)
    return raw


def _is_yaml(key: str, text: str) -> bool:
    """Whether a value is read as YAML.

    It is a mapping, or a list of them; or of `model.options`, whose values no schema knows.
    """
    path = key.split(".")
    return text.lstrip().startswith(_MAPPINGS) or ("model", "options") in pairwise(path)


def _nothing(text: str) -> str | None:
    """A text as it is, but for `null`, which stands for no value as it does in YAML."""
    return None if text == "null" else text


def _scalar(text: str) -> object:
    value: object = yaml.load(text, _Loader)
    return value


def _not_yaml(key: str, text: str, error: yaml.YAMLError) -> SegalError:
    return SegalError(
        f"override {key}",
        expected="a value as YAML has it, such as 8, 0.5, true, null, a text or [256, 128]",
        got=f"{text!r}: {str(error).splitlines()[0]}",
        remedy=f"quote it for the shell, as in {key}='[256, 128]', or put it in a file",
    )


def _strategy_named(key: str) -> str | None:
    """The key of the strategy that a key names; None for any other."""
    named = key.removesuffix(".name")
    return named if named in STRATEGY_KEYS else None


def _set(raw: Raw, key: str, value: object) -> None:
    named = _strategy_named(key)
    if named is not None and not (key == named and isinstance(value, dict)):
        current = raw.get(named)
        if not isinstance(current, dict) or current.get("name") != value:
            raw[named] = {"name": value}
        return
    *path, last = key.split(".")
    inner = raw
    for part in path:
        child = inner.setdefault(part, {})
        if not isinstance(child, dict):
            child = inner[part] = {}
        inner = child
    inner[last] = value


class _Loader(yaml.SafeLoader):
    """Refuses aliases, by which a small file can stand for an endless one."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases")
        return super().compose_node(parent, index)


def _read_yaml(file: Path) -> Raw:
    remedy = "see the files in configs/ for examples"
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_CONFIG_BYTES + 1)
        if len(text) > _MAX_CONFIG_BYTES:
            raise ValueError("larger than 1 MiB")
        loaded = yaml.load(text, _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SegalError(
            f"{file}: cannot be read as a configuration",
            expected="a YAML file without aliases, of at most 1 MiB",
            got=str(error).replace("\n", " "),
            remedy=remedy,
        ) from error
    if not isinstance(loaded, dict):
        raise SegalError(
            f"{file}: not a configuration",
            expected="a mapping of keys to values",
            got=type(loaded).__name__,
            remedy=remedy,
        )
    return loaded


def validate(kind: type[T], raw: object, prefix: str = "") -> tuple[T | None, list[SegalError]]:
    """Validates values, and turns every mistake into an error with its dotted key.

    Args:
        kind: A pydantic model or dataclass.
        raw: Its values.
        prefix: Dotted key of `raw` itself.

    Returns:
        The validated value (None if there are mistakes), and the mistakes.
    """
    try:
        return TypeAdapter(kind).validate_python(raw), []
    except ValidationError as error:
        return None, [_translate(kind, dict(one), prefix) for one in error.errors()]


def _translate(kind: object, error: Raw, prefix: str) -> SegalError:
    location = [str(part) for part in error["loc"]]
    key = ".".join([*([prefix] if prefix else []), *location])
    got = repr(error["input"])
    if len(got) > 200:
        got = got[:200] + "..."
    if error["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        names = _names(kind, location[:-1])
        near = nearest(location[-1], names)
        return SegalError(
            f"{key}: unknown key",
            expected=f"one of {', '.join(names)}" if names else "no such key",
            got=repr(location[-1]),
            remedy=f"did you mean {near!r}?" if near else "leave it out",
        )
    if error["type"] == "missing":
        return SegalError(
            f"{key}: missing", expected="a value", got="nothing", remedy=f"give {key}"
        )
    if error["type"] == "value_error":
        expected, _, remedy = str(error["ctx"]["error"]).partition("|")
        return SegalError(
            f"{key}: not valid",
            expected=expected.removeprefix("expected "),
            got=got,
            remedy=remedy or f"give {key} such a value",
        )
    message = _PLAIN.get(error["type"]) or error["msg"].removeprefix("Input should be ")
    return SegalError(
        f"{key}: not valid", expected=message, got=got, remedy=f"give {key} such a value"
    )


def _names(kind: object, path: Sequence[str]) -> list[str]:
    """Names of the fields of a model or dataclass, or of the section at a path inside it."""
    fields: Mapping[str, Any] = (
        getattr(kind, "model_fields", None) or getattr(kind, "__pydantic_fields__", None) or {}
    )
    if not path:
        return sorted(fields)
    annotation = fields[path[0]].annotation if path[0] in fields else None
    options = [annotation, *get_args(annotation)]
    sections = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
    return _names(sections[0], path[1:]) if sections else []
