"""Configurations: a YAML file, `key.path=value` overrides, then flags; all mistakes at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from segal.budget import Budget
from segal.errors import SegalError, raise_all
from segal.models.build import MAX_SCALE, MIN_SCALE
from segal.regions import RegionSize
from segal.registry import nearest
from segal.train import TrainSettings, split_commas

T = TypeVar("T")
Raw = dict[str, Any]

_MAX_CONFIG_BYTES = 1 << 20


def _parsed(parse: Any) -> Any:
    """A validator that keeps the text of what `parse` accepts, in its normal form."""

    def check(value: object) -> str:
        try:
            return str(parse(str(value)))
        except SegalError as error:
            raise ValueError(f"{error.expected}|{error.remedy}") from error

    return check


Range = Annotated[tuple[float, float], BeforeValidator(split_commas)]
RegionText = Annotated[str, BeforeValidator(_parsed(RegionSize.parse))]
BudgetText = Annotated[str, BeforeValidator(_parsed(Budget.parse))]
Channels = Annotated[tuple[float, float, float], BeforeValidator(split_commas)]
PositiveChannels = Annotated[
    tuple[PositiveFloat, PositiveFloat, PositiveFloat], BeforeValidator(split_commas)
]
Scale = Annotated[float, Field(ge=MIN_SCALE, le=MAX_SCALE)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(split_commas)]


class Section(BaseModel):
    """A part of a configuration; a key that it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Section):
    """What a checkpoint does not say of its network; None leaves it to the checkpoint."""

    architecture: str | None = None
    encoder: str | None = None
    num_classes: Annotated[int, Field(ge=2, le=4096)] | None = None
    mean: Channels | None = None
    std: PositiveChannels | None = None
    input_scale: Scale | None = None


class MachineConfig(Section):
    """How the work is run; none of it changes results beyond rounding."""

    device: str = "auto"
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    workers: Annotated[int, Field(ge=0, le=256)] = 1
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None


class SelectConfig(Section):
    """Configuration of `segal select`.

    Attributes:
        images: Folder of the pool's images.
        checkpoint: The network; not needed by strategies that ask for no signal.
        model: What the checkpoint does not say.
        region: Region size.
        extra_regions: Further sizes to measure in the same pass, kept in the candidate tables.
        budget: How much to buy.
        strategy: Its name and parameters.
        labelled: Selections that are labelled already.
        out: The run's folder.
        seed: Of every random draw.
        precision: Of the network's forward pass.
        embedding_dtype: Of the stored embeddings.
        skip_unreadable: Go on without images that cannot be read.
        value_range: Values of 16-bit images that become 0 and 1; None: 0 and 65535.
        overlays: For how many images, by best rank, to draw a picture.
        machine: How to run.
    """

    images: Path
    checkpoint: Path | None = None
    model: ModelConfig = ModelConfig()
    region: RegionText = "512"
    extra_regions: Annotated[tuple[RegionText, ...], BeforeValidator(split_commas)] = ()
    budget: BudgetText
    strategy: dict[str, Any]
    labelled: Paths = ()
    out: Path
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    embedding_dtype: Literal["float32", "float16"] = "float32"
    skip_unreadable: bool = False
    value_range: Range | None = None
    overlays: Annotated[int, Field(ge=0, le=10_000)] = 20
    machine: MachineConfig = MachineConfig()


class DataConfig(Section):
    """A labelled data set.

    Attributes:
        root: Its folder.
        layout: `cityscapes`, `folder`, or `auto` to tell by its folders.
        ignore_index: A raw label value that no class stands for; 255 is ignored always.
        train: Split to train on.
        validation: Split that picks the best weights; empty for none.
        test: Split to evaluate the result on; empty for none.
        value_range: As in `SelectConfig`.
    """

    root: Path
    layout: Literal["auto", "cityscapes", "folder"] = "auto"
    ignore_index: Annotated[int, Field(ge=0, le=255)] | None = None
    train: str = "train"
    validation: str = ""
    test: str = ""
    value_range: Range | None = None

    @model_validator(mode="after")
    def _apart(self) -> "DataConfig":
        used = [split for split in (self.train, self.validation, self.test) if split]
        if len(set(used)) < len(used):
            raise ValueError(
                f"three different splits, not {', '.join(used)}"
                "|train, choose and report on different images"
            )
        return self


class NetworkConfig(Section):
    """The network to train: DeepLabV3Plus with resnet18 at scale 1, or what a checkpoint says."""

    architecture: str | None = None
    encoder: str | None = None
    encoder_weights: Path | None = None
    mean: Channels | None = None
    std: PositiveChannels | None = None
    input_scale: Scale | None = None


class TrainConfig(Section):
    """Configuration of `segal train`.

    Attributes:
        data: The data set.
        labelled: Selections that are labelled; everything outside them is ignored. None: all of the
            training split is labelled.
        checkpoint: Weights to start from.
        model: The network to start from otherwise; with a checkpoint, what must agree with it.
        train: How to train.
        out: The run's folder.
        seed: Of every random draw.
        machine: How to run; `batch_size` is of the evaluation.
    """

    data: DataConfig
    labelled: Paths = ()
    checkpoint: Path | None = None
    model: NetworkConfig = NetworkConfig()
    train: TrainSettings = TrainSettings()
    out: Path
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    machine: MachineConfig = MachineConfig()


def read_config(file: Path | None, overrides: Sequence[str], flags: Mapping[str, object]) -> Raw:
    """Merges a file, overrides and flags; later ones win.

    Args:
        file: A YAML file, or None.
        overrides: `key.path=value` texts.
        flags: Values by dotted key; None stands for a flag that was not given.

    Returns:
        A nested dictionary, not validated yet.

    Raises:
        SegalError: If the file cannot be read, or overrides are not of that form.
    """
    raw = _read_yaml(file) if file is not None else {}
    if isinstance(raw.get("strategy"), str):
        raw["strategy"] = {"name": raw["strategy"]}
    errors = []
    items: list[tuple[str, object]] = []
    for override in overrides:
        key, separator, text = override.partition("=")
        if separator and all(key.split(".")):
            items.append((key, text))
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
    for key, value in sorted(items, key=lambda item: item[0] not in {"strategy", "strategy.name"}):
        _set(raw, key, value)
    return raw


def _set(raw: Raw, key: str, value: object) -> None:
    if key in {"strategy", "strategy.name"}:
        current = raw.get("strategy")
        if not isinstance(current, dict) or current.get("name") != value:
            raw["strategy"] = {"name": value}
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
    message = error["msg"].removeprefix("Input should be ")
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
