"""Options, each written once, and how a command takes a configuration by them.

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
Parts = Callable[[Any], tuple[object, ...]]


def _print_help(context: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(context.get_help())
        raise typer.Exit


Help = Annotated[
    bool,
    typer.Option(
        "-h", "--help", callback=_print_help, is_eager=True, help="Show this message and exit."
    ),
]
"""Of a group of commands: typer's own would import pydantic for the help of any of them."""


@dataclass(frozen=True)
class Flag:
    """An option that stands for a key of the configuration.

    Attributes:
        name: Of the command's parameter.
        kind: Type of its value.
        info: What typer shows of it.
        keys: The dotted key; or several, for what `parts` makes of a value.
        parts: As many values as there are keys.
    """

    name: str
    kind: Any
    info: Any
    keys: tuple[str, ...]
    parts: Parts

    @property
    def parameter(self) -> inspect.Parameter:
        """Of a command."""
        annotation = Annotated[self.kind | None, self.info]  # type: ignore[name-defined]
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.name, kind, default=None, annotation=annotation)

    def read(self, value: object) -> dict[str, object]:
        """Values by dotted key; None where the flag was not given."""
        given = None if value == [] else value
        return dict(zip(self.keys, self.parts(given), strict=True))


def flag(
    key: str | tuple[str, ...],
    kind: Any,
    help: str,
    *,
    name: str = "",
    metavar: str | None = None,
    parts: Parts = lambda value: (value,),
) -> Flag:
    """An option.

    Args:
        key: The dotted key, or several for `parts`.
        kind: Type of its value; of `bool` there is no `--no-` beside it.
        help: What the command's help says of it.
        name: `some_name` of `--some-name`; the last part of the key if left out.
        metavar: How help shows its value.
        parts: As in `Flag`.
    """
    keys = (key,) if isinstance(key, str) else key
    name = name or keys[0].split(".")[-1]
    declared = ["--" + name.replace("_", "-")] if kind is bool else []
    return Flag(name, kind, typer.Option(*declared, help=help, metavar=metavar), keys, parts)


def root_and_split(text: str | None) -> tuple[str | None, str | None]:
    """The parts of ROOT[:SPLIT]; a folder whose own name has a colon is taken as it is."""
    root, colon, split = (text or "").rpartition(":")
    if not colon or not root or Path(text or "").exists():
        return text, None
    return root, split


IMAGES = flag("images", Path, "Folder of images.")
CHECKPOINT = flag("checkpoint", Path, "The network: .safetensors or .pth.")
LABELLED = flag(
    "labelled",
    list[Path],
    "A selection.csv, or a run folder, of what is labelled; may be repeated.",
)
REFERENCE = flag(
    ("reference.root", "reference.split"),
    str,
    "Labelled data set, and its split, to measure on. [default of the split: val]",
    name="reference",
    metavar="ROOT[:SPLIT]",
    parts=root_and_split,
)
EXCLUDE = flag(
    "exclude",
    Path,
    "What is never annotated: a PNG mask, a folder of masks by image name, or a CSV of boxes.",
)
REGION = flag("region", str, "512, HEIGHTxWIDTH or image. [default: 512]")
BUDGET = flag("budget", str, "500 (regions), 2% (of the pool), 10img; 500box in detection.")
STRATEGY = flag("strategy", str, "See `segal strategies`. [default: uwe]")
TAU = flag("strategy.tau", float, "Power of the uncertainty (uwe). [default: 1]")
OUT = flag("out", Path, "The run's folder.")
FROM_SCAN = flag("from_scan", Path, "A folder of `segal scan`, with the pass over the pool.")
OVERLAYS = flag("overlays", int, "Images to draw pictures of, best first. [default: 20]")

ARCH = flag(
    "model.architecture",
    str,
    "Architecture, or package.module:name. [default: DeepLabV3Plus]",
    name="arch",
)
ENCODER = flag("model.encoder", str, "Encoder. [default: resnet18]")
ENCODER_WEIGHTS = flag("model.encoder_weights", Path, "Local file of the encoder's weights.")
STARTING_WEIGHTS = flag("checkpoint", Path, "Weights to start from.")
NUM_CLASSES = flag("model.num_classes", int, "Classes of a plain state_dict.")
NEW_CLASSES = flag(
    "model.new_classes",
    bool,
    "Take the data set's classes for as many others that the checkpoint was trained for.",
)
MEAN = flag("model.mean", str, "Input mean as R,G,B on the scale 0 to 1.")
STD = flag("model.std", str, "Input standard deviation, likewise.")
INPUT_SCALE = flag(
    "model.input_scale", float, "Scale at which the network sees images. [default: 1]"
)

TASK = flag(
    "task", str, "segmentation, classification, multilabel or detection. [default: segmentation]"
)
DEVICE = flag("machine.device", str, "auto, cpu, cuda or cuda:1. [default: auto]")
BATCH_SIZE = flag("machine.batch_size", int, "Images at a time. [default: 1]")
WORKERS = flag("machine.workers", int, "Threads that read ahead. [default: 1; beside a GPU 8]")
THREADS = flag("machine.threads", int, "Threads that compute. [default: the rank's cores]")
SEED = flag("seed", int, "Of everything random. [default: 0]")
PRECISION = flag("precision", str, "fp32, bf16 or fp16. [default: fp32]")
BANDS = flag("bands", str, "Bands of the files by number, such as 4,3,2, or all. [default: RGB]")
PAGE = flag("page", int, "Which image of TIFF files of several, from 1.")
SKIP_UNREADABLE = flag("skip_unreadable", bool, "Go on without images that cannot be read.")
FOLLOW_LINKS = flag("follow_links", bool, "Links in the folder of images may lead out of it.")
DATA = flag("data.root", Path, "Folder of the data set.", name="data")

SCANNING = (
    TASK,
    *(ARCH, ENCODER, NUM_CLASSES, MEAN, STD, INPUT_SCALE),
    *(DEVICE, BATCH_SIZE, WORKERS, THREADS, SEED, PRECISION),
    *(BANDS, PAGE, SKIP_UNREADABLE, FOLLOW_LINKS),
)
"""How a network looks at a pool of images."""

INPUTS = (IMAGES, CHECKPOINT, LABELLED, REFERENCE)
"""What it looks at."""

SELECTION = (
    *(*INPUTS, EXCLUDE, REGION, BUDGET, STRATEGY, TAU, FROM_SCAN, OUT, OVERLAYS),
    *(ENCODER_WEIGHTS, *SCANNING),
)
"""What `segal select` takes, and `segal plan` as well."""


def configured(*flags: Flag) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a command of a function of the configuration.

    The command takes overrides, a file and these flags, and calls the function with what they come
    to, which is not validated yet. Parameters that the function has beside that one are options of
    the command as well.
    """
    shared = {"overrides": Overrides, "config": ConfigFile}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in shared.items()
    ]
    parameters += [flag.parameter for flag in flags]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function)
        _, *own = signature.parameters.values()

        @wraps(function)
        def command(overrides: list[str] | None, config: Path | None, **values: object) -> None:
            from segal.config import read_config

            given: dict[str, object] = {}
            for flag in flags:
                given |= flag.read(values.pop(flag.name))
            function(read_config(config, overrides or [], given), **values)

        command.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*parameters, *(p.replace(kind=p.KEYWORD_ONLY) for p in own)]
        )
        return command

    return decorate
