"""Options that several commands share. Nothing here imports torch, so that help comes at once."""

from pathlib import Path
from typing import Annotated

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


def root_and_split(text: str | None) -> tuple[str | None, str | None]:
    """The parts of ROOT[:SPLIT]; a folder whose own name has a colon is taken as it is."""
    root, colon, split = (text or "").rpartition(":")
    if not colon or not root or Path(text or "").exists():
        return text, None
    return root, split
