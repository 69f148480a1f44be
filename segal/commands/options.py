"""Options that several commands share, and how a command takes a configuration by flags.

Nothing here imports torch or pydantic, so that help comes at once.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Overrides of the configuration."),
]
ConfigFile = Annotated[Path | None, typer.Option(help="A YAML file, as in configs/.")]
Images = Annotated[Path | None, typer.Option(help="Folder of images.")]
Checkpoint = Annotated[Path | None, typer.Option(help="The network: .safetensors or .pth.")]
Labelled = Annotated[
    list[Path] | None,
    typer.Option(help="A selection.csv, or a run folder, of what is labelled; may be repeated."),
]
Budget = Annotated[str | None, typer.Option(help="500 (regions), 2% (of the pixels) or 10img.")]
Out = Annotated[Path | None, typer.Option(help="The run's folder.")]
Region = Annotated[str | None, typer.Option(help="512, HEIGHTxWIDTH or image. [default: 512]")]
Strategy = Annotated[str | None, typer.Option(help="See `segal strategies`. [default: uwe]")]
Tau = Annotated[float | None, typer.Option(help="Power of the uncertainty (uwe). [default: 1]")]
Architecture = Annotated[
    str | None,
    typer.Option("--arch", help="Architecture, or package.module:name. [default: DeepLabV3Plus]"),
]
Encoder = Annotated[str | None, typer.Option(help="Encoder. [default: resnet18]")]
NumClasses = Annotated[int | None, typer.Option(help="Classes of a plain state_dict.")]
NewClasses = Annotated[
    bool | None,
    typer.Option(
        "--new-classes",
        help="Take the data set's classes for as many others that the checkpoint was trained for.",
    ),
]
Mean = Annotated[str | None, typer.Option(help="Input mean as R,G,B on the scale 0 to 1.")]
Std = Annotated[str | None, typer.Option(help="Input standard deviation, likewise.")]
InputScale = Annotated[
    float | None, typer.Option(help="Scale at which the network sees images. [default: 1]")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:1. [default: auto]")]
BatchSize = Annotated[int | None, typer.Option(help="Images at a time. [default: 1]")]
Workers = Annotated[int | None, typer.Option(help="Threads that read ahead. [default: 1]")]
Threads = Annotated[
    int | None, typer.Option(help="Threads that compute. [default: the available cores]")
]
Seed = Annotated[int | None, typer.Option(help="Of everything random. [default: 0]")]
Precision = Annotated[str | None, typer.Option(help="fp32, bf16 or fp16. [default: fp32]")]
Bands = Annotated[
    str | None,
    typer.Option(help="Bands of the files by number, such as 4,3,2, or all. [default: RGB]"),
]
Page = Annotated[int | None, typer.Option(help="Which image of TIFF files of several, from 1.")]
SkipUnreadable = Annotated[
    bool | None,
    typer.Option("--skip-unreadable", help="Go on without images that cannot be read."),
]
Reference = Annotated[
    str | None,
    typer.Option(
        metavar="ROOT[:SPLIT]",
        help="Labelled data set, and its split, to measure on. [default of the split: val]",
    ),
]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of the data set.")]
EncoderWeights = Annotated[Path | None, typer.Option(help="Local file of the encoder's weights.")]
StartingWeights = Annotated[Path | None, typer.Option(help="Weights to start from.")]
Overlays = Annotated[
    int | None, typer.Option(help="Images to draw pictures of, best first. [default: 20]")
]


def root_and_split(text: str | None) -> tuple[str | None, str | None]:
    """The parts of ROOT[:SPLIT]; a folder whose own name has a colon is taken as it is."""
    root, colon, split = (text or "").rpartition(":")
    if not colon or not root or Path(text or "").exists():
        return text, None
    return root, split


@dataclass(frozen=True)
class Flag:
    """A flag that stands for a key of the configuration.

    Attributes:
        option: An `Annotated` type, as typer takes it.
        keys: The dotted key; or several, for what `parts` makes of a value.
        parts: As many values as there are keys.
    """

    option: Any
    keys: tuple[str, ...]
    parts: Callable[[Any], tuple[object, ...]] = lambda value: (value,)

    def read(self, value: object) -> dict[str, object]:
        """Values by dotted key; None where the flag was not given."""
        given = None if value == [] else value
        return dict(zip(self.keys, self.parts(given), strict=True))


def flag(option: Any, key: str) -> Flag:
    """A flag of one key."""
    return Flag(option, (key,))


SCANNING = {
    "arch": flag(Architecture, "model.architecture"),
    "encoder": flag(Encoder, "model.encoder"),
    "num_classes": flag(NumClasses, "model.num_classes"),
    "mean": flag(Mean, "model.mean"),
    "std": flag(Std, "model.std"),
    "input_scale": flag(InputScale, "model.input_scale"),
    "device": flag(Device, "machine.device"),
    "batch_size": flag(BatchSize, "machine.batch_size"),
    "workers": flag(Workers, "machine.workers"),
    "threads": flag(Threads, "machine.threads"),
    "seed": flag(Seed, "seed"),
    "precision": flag(Precision, "precision"),
    "bands": flag(Bands, "bands"),
    "page": flag(Page, "page"),
    "skip_unreadable": flag(SkipUnreadable, "skip_unreadable"),
}
"""How a network looks at a pool of images."""

INPUTS = {
    "images": flag(Images, "images"),
    "checkpoint": flag(Checkpoint, "checkpoint"),
    "labelled": flag(Labelled, "labelled"),
    "reference": Flag(Reference, ("reference.root", "reference.split"), root_and_split),
}
"""What it looks at."""

SELECTION = {
    **INPUTS,
    "region": flag(Region, "region"),
    "budget": flag(Budget, "budget"),
    "strategy": flag(Strategy, "strategy"),
    "tau": flag(Tau, "strategy.tau"),
    "out": flag(Out, "out"),
    "overlays": flag(Overlays, "overlays"),
    **SCANNING,
}
"""What `segal select` takes, and `segal plan` as well."""


def configured(**flags: Flag) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a command of a function of the configuration.

    The command takes overrides, a file and these flags, and calls the function with what they come
    to, which is not validated yet. Parameters that the function has beside that one are options of
    the command as well.
    """
    shared = {
        "overrides": Overrides,
        "config": ConfigFile,
        **{name: flag.option for name, flag in flags.items()},
    }
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in shared.items()
    ]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function)
        _, *own = signature.parameters.values()

        @wraps(function)
        def command(overrides: list[str] | None, config: Path | None, **values: object) -> None:
            from segal.config import read_config

            given: dict[str, object] = {}
            for name, flag in flags.items():
                given |= flag.read(values.pop(name))
            function(read_config(config, overrides or [], given), **values)

        command.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*parameters, *(p.replace(kind=p.KEYWORD_ONLY) for p in own)]
        )
        return command

    return decorate
