"""Sections that the configurations of several commands share.

Keys of what has a run folder say whether its results depend on them: see `Section.identity`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from segal.config.values import (
    BandNumbers,
    Channels,
    Layout,
    PositiveChannels,
    Probability,
    Range,
    Scale,
    Share,
    Side,
    Suffix,
)
from segal.data.image_file import Large, Reading
from segal.errors import SegalError
from segal.models.build import MAX_FEATURES, check_encoder
from segal.models.spec import DEFAULT_TASK
from segal.system.sections import (
    Aside,
    FileResult,
    Input,
    Part,
    Result,
    Section,
    result_unless,
    split_commas,
)
from segal.tasks import TASKS, find_task
from segal.training.settings import ALL_LAYERS


def _refuse_encoder(
    architecture: str | None, encoder: str | None, task: str = DEFAULT_TASK
) -> None:
    if architecture is None:
        return
    try:
        check_encoder(architecture, encoder, task)
    except SegalError as error:
        raise ValueError(f"{error.expected}|{error.remedy}") from error


class NamedNetwork(Section):
    """A section that may name a network."""

    @field_validator("encoder", check_fields=False)
    @classmethod
    def _of_architecture(cls, encoder: str | None, info: ValidationInfo) -> str | None:
        _refuse_encoder(info.data.get("architecture"), encoder)
        return encoder


class Trained(Section):
    """A section whose network, where neither its name nor a checkpoint is given, is its task's."""

    @field_validator("model", check_fields=False)
    @classmethod
    def _of_task(cls, model: "NetworkConfig", info: ValidationInfo) -> "NetworkConfig":
        if "task" in info.data and not (model.architecture is None and info.data.get("checkpoint")):
            task = find_task(info.data["task"])
            named = model.architecture or task.usual_network(None)
            _refuse_encoder(named, model.encoder, task.name)
        return model


class Storing(Section):
    """A section with a store, which is of use only where something is frozen."""

    @field_validator("store", check_fields=False)
    @classmethod
    def _of_frozen(cls, store: "StoreConfig | None", info: ValidationInfo) -> "StoreConfig | None":
        train = info.data.get("train")
        if store is not None and train is not None and train.layers == ALL_LAYERS:
            raise ValueError("no store where all layers are trained|give train.layers, or leave it")
        return store


class Regions(Section):
    """A section whose region size, where none is given, is what its task buys."""

    @model_validator(mode="before")
    @classmethod
    def _usual_region(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and "region" not in raw and raw.get("task") in TASKS:
            return {**raw, "region": find_task(str(raw["task"])).default_region}
        return raw


class LargeConfig(Section):
    """How images are looked at that are too large for one pass; see `segal.data.image_file.Large`.

    Attributes:
        above: An image of more than so many megapixels (10^6 pixels) is large.
        tile: Side of the tiles that the network is given of it, in pixels; rounded up to a multiple
            of the network's stride.
        overlap: Of neighbouring tiles, in pixels, at most half a tile; rounded likewise.
        no_data: Which images have parts without data, that are never annotated.
    """

    above: Result[Annotated[float, Field(gt=0, le=1e6)]] = 64.0
    tile: Result[Annotated[int, Field(ge=64, le=16384)]] = 1024
    overlap: Result[Annotated[int, Field(ge=0, le=8192)]] = 128
    no_data: Result[Literal["large", "all", "none"]] = "large"

    @field_validator("overlap")
    @classmethod
    def _within(cls, overlap: int, info: ValidationInfo) -> int:
        if 2 * overlap > info.data.get("tile", 2 * overlap):
            raise ValueError("at most half of large.tile|give a smaller overlap, or a larger tile")
        return overlap


class ImagesSection(Section):
    """What says how images are read.

    Attributes:
        value_range: Values of 16-bit images that become 0 and 1; None: 0 and 65535.
        bands: The channels that images have: bands of their files by number, from 1, such as
            4,3,2, or `all` of them. None: red, green and blue.
        page: Which image to take of TIFF files that hold several, from 1.
        large: How images are looked at that are too large for one pass; None: by the defaults.
    """

    value_range: Result[Range | None] = None
    bands: Annotated[BandNumbers | None, result_unless(None)] = None
    page: Annotated[Annotated[int, Field(ge=1, le=1000)] | None, result_unless(None)] = None
    large: Annotated[LargeConfig | None, result_unless(None)] = None

    @property
    def reading(self) -> Reading:
        """How images are read."""
        large = Large() if self.large is None else Large(**self.large.model_dump())
        return Reading(self.value_range, self.bands, self.page, large)


class ModelConfig(NamedNetwork):
    """What a checkpoint does not say of its network; None leaves it to the checkpoint."""

    architecture: Result[str | None] = None
    encoder: Result[str | None] = None
    num_classes: Result[Annotated[int, Field(ge=2, le=4096)] | None] = None
    mean: Result[Channels | None] = None
    std: Result[PositiveChannels | None] = None
    input_scale: Result[Scale | None] = None
    insert_dropout: Result[Probability | None] = None
    options: Annotated[dict[str, Any] | None, result_unless(None)] = None
    state: Annotated[str | None, result_unless(None)] = None
    input_side: Annotated[Side | None, result_unless(None)] = None
    input_channels: Annotated[
        Annotated[int, Field(ge=1, le=MAX_FEATURES)] | None, result_unless(None)
    ] = None


class PoolModelConfig(ModelConfig):
    """What a checkpoint does not say of a network that looks at a pool; or an encoder by itself.

    Attributes:
        encoder_weights: Of the `encoder`, where there is no checkpoint: strategies that need
            features alone then go by what it makes of images.
    """

    encoder_weights: Annotated[Path | None, Part("file", (None,))] = None

    def of_checkpoint(self) -> dict[str, Any]:
        """What is said beside a checkpoint."""
        return self.model_dump(exclude={"encoder_weights"})


class MachineConfig(Section):
    """How the work is run; none of it changes results beyond rounding.

    Attributes:
        device: As `segal.system.machine.find_device` takes it.
        batch_size: Images at a time.
        workers: Threads that read ahead; None for as many as are of use, as
            `segal.system.machine.readers` says.
        threads: That compute, of a process; None for all cores, or a rank's share of them, unless
            `OMP_NUM_THREADS` is set.
    """

    device: str = "auto"
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None


class LabelsConfig(ImagesSection):
    """One split of a labelled data set, beside what `ImagesSection` has.

    Attributes:
        root: Folder of the data set.
        split: Such as val.
        layout: As in `DataConfig`.
        ignore_index: As in `DataConfig`.
        reduce_zero_label: As in `DataConfig`.
        label_suffix: As in `DataConfig`.
        validation_share: As in `DataConfig`.
    """

    root: Path
    split: str = "val"
    layout: Layout = "auto"
    ignore_index: Annotated[int, Field(ge=0, le=255)] | None = None
    reduce_zero_label: bool = False
    label_suffix: Suffix | None = None
    validation_share: Share = 0.0

    def beside(self, images: ImagesSection) -> "LabelsConfig":
        """The split, read like the images beside it wherever it says nothing else."""
        keys = [key for key in ImagesSection.model_fields if getattr(self, key) is None]
        return self.model_copy(update={key: getattr(images, key) for key in keys})


class StoreConfig(Section):
    """Where outputs of the frozen part of a network are kept, for all runs that freeze the same.

    Attributes:
        folder: Of the store; runs and processes may share it.
        precision: Of the numbers as kept; float16 takes half the room and rounds to 3 digits.
        gigabytes: Room of the store at most, in units of 10^9 bytes; what was used least lately
            goes first.
    """

    folder: Aside[Path]
    precision: Annotated[Literal["float32", "float16"], result_unless("float32")] = "float32"
    gigabytes: Aside[Annotated[float, Field(gt=0, le=1e6)]] = 20.0


class LayersStoreConfig(StoreConfig):
    """A store, where no training says what is frozen.

    Attributes:
        layers: What is trained, as `train.layers` says it.
    """

    layers: Aside[Annotated[str, Field(min_length=1, max_length=200)]] = "decoder"


class ScenesConfig(Section):
    """Made-up street scenes in the layout of Cityscapes, to try things out on.

    Attributes:
        train: Frames of the split `train`.
        val: Frames of the split `val`.
        height: In pixels; they are twice as wide.
        seed: Of what they show.
    """

    train: Result[Annotated[int, Field(ge=1, le=100_000)]] = 60
    val: Result[Annotated[int, Field(ge=1, le=100_000)]] = 30
    height: Result[Annotated[int, Field(ge=32, le=2048)]] = 128
    seed: Result[Annotated[int, Field(ge=0, lt=2**63)]] = 0


class DataConfig(ImagesSection):
    """A labelled data set, beside what `ImagesSection` has.

    Attributes:
        root: Its folder.
        scenes: Draw made-up scenes there first, unless they are there.
        layout: `ade20k`, `camvid`, `cityscapes`, `folder` or `voc`, as docs/labels.md shows them;
            `csv`, `features`, `folders` or `npz`, as docs/classification_data.md does; or `auto` to
            tell by what is there.
        ignore_index: A raw label value that no class stands for, beside 255.
        reduce_zero_label: 0 stands for no class, and classes without a value count from 1.
        label_suffix: What follows an image's name in its label's, such as `_mask`.
        validation_share: Of a split train, what is cut off it as val where there is none; 0 for
            none. Not where label files are laid out by split.
        rare_classes: Names of classes that are made rare in the split train, or `half` for every
            second one: to try out pools in which classes differ in number. Not where pixels have
            classes.
        rare_share: How many of their images are left, chosen by a hash of paths.
        train: Split to train on.
        validation: Split that picks the best weights; empty for none.
        test: Split to evaluate the result on; empty for none.
    """

    root: Input[Path]
    scenes: Result[ScenesConfig | None] = None
    layout: Result[Layout] = "auto"
    ignore_index: Result[Annotated[int, Field(ge=0, le=255)] | None] = None
    reduce_zero_label: Annotated[bool, result_unless(False)] = False
    label_suffix: Annotated[Suffix | None, result_unless(None, "")] = None
    validation_share: Annotated[Share, result_unless(0)] = 0.0
    rare_classes: Annotated[
        Annotated[tuple[str, ...], BeforeValidator(split_commas)], result_unless(())
    ] = ()
    rare_share: Annotated[Annotated[float, Field(gt=0, lt=1)], result_unless(0.1)] = 0.1
    train: Result[str] = "train"
    validation: Result[str] = ""
    test: Result[str] = ""

    @model_validator(mode="after")
    def _apart(self) -> "DataConfig":
        used = [split for split in (self.train, self.validation, self.test) if split]
        if len(set(used)) < len(used):
            raise ValueError(
                f"three different splits, not {', '.join(used)}"
                "|train, choose and report on different images"
            )
        return self


class NetworkConfig(NamedNetwork):
    """The network to train; by default what the task usually takes, or what a checkpoint says.

    Attributes:
        input_side: Of the square that whole images are brought to; 0 leaves them as they are, None
            is for what the network's published weights expect.
        new_classes: The data set's classes take the place of as many others that the checkpoint was
            trained for.
    """

    architecture: Result[str | None] = None
    encoder: Result[str | None] = None
    encoder_weights: FileResult[Path | None] = None
    mean: Result[Channels | None] = None
    std: Result[PositiveChannels | None] = None
    input_scale: Result[Scale | None] = None
    insert_dropout: Annotated[Probability | None, result_unless(None, 0)] = None
    options: Annotated[dict[str, Any] | None, result_unless(None, {})] = None
    new_classes: Annotated[bool, result_unless(False)] = False
    state: Annotated[str | None, result_unless(None, "")] = None
    input_side: Annotated[Side | None, result_unless(None)] = None
