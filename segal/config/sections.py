"""What can be configured: one class a command, made of sections that commands share.

Keys of what has a run folder say whether its results depend on them: see `Section.identity`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)

from segal.candidates.budget import Budget, Fit
from segal.candidates.regions import RegionSize
from segal.data.image_file import Large, Reading
from segal.errors import SegalError
from segal.models.build import MAX_FEATURES, MAX_SCALE, MAX_SIDE, MIN_SCALE, check_encoder
from segal.models.spec import DEFAULT_TASK
from segal.runs.history import Axis
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
from segal.tasks import TASKS, find_task, layout_name, task_name
from segal.training.settings import ALL_LAYERS, TrainSettings


def _parsed(parse: Any) -> Any:
    """A validator that keeps the text of what `parse` accepts, in its normal form."""

    def check(value: object) -> str:
        try:
            return str(parse(str(value)))
        except SegalError as error:
            raise ValueError(str(error.expected)) from error  # its remedy is of another option

    return check


Range = Annotated[tuple[float, float], BeforeValidator(split_commas)]
RegionText = Annotated[str, BeforeValidator(_parsed(RegionSize.parse))]
BudgetText = Annotated[str, BeforeValidator(_parsed(Budget.parse))]
BudgetFit = Annotated[Fit, result_unless("prefix")]
Channels = Annotated[
    tuple[float, ...], BeforeValidator(split_commas), Field(min_length=1, max_length=64)
]
PositiveChannels = Annotated[
    tuple[PositiveFloat, ...], BeforeValidator(split_commas), Field(min_length=1, max_length=64)
]
Layout = Annotated[str, BeforeValidator(_parsed(layout_name))]
BandNumber = Annotated[int, Field(ge=1, le=65535)]
BandNumbers = Annotated[
    Literal["all"] | Annotated[tuple[BandNumber, ...], Field(min_length=1, max_length=64)],
    BeforeValidator(lambda value: value if value == "all" else split_commas(value)),
]
Suffix = Annotated[str, Field(max_length=100)]
Scale = Annotated[float, Field(ge=MIN_SCALE, le=MAX_SCALE)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Side = Annotated[int, Field(ge=0, le=MAX_SIDE)]
TaskName = Annotated[str, BeforeValidator(_parsed(task_name)), result_unless(DEFAULT_TASK)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(split_commas)]
AT_RANDOM: dict[str, Any] = {"name": "random"}
"""The seed set's strategy where none is given."""
SeedStrategy = Annotated[
    Annotated[
        dict[str, Any],
        BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value),
    ],
    result_unless(AT_RANDOM),
]


def _refuse_encoder(
    architecture: str | None, encoder: str | None, task: str = DEFAULT_TASK
) -> None:
    if architecture is None:
        return
    try:
        check_encoder(architecture, encoder, task)
    except SegalError as error:
        raise ValueError(f"{error.expected}|{error.remedy}") from error


class _NamedNetwork(Section):
    """A section that may name a network."""

    @field_validator("encoder", check_fields=False)
    @classmethod
    def _of_architecture(cls, encoder: str | None, info: ValidationInfo) -> str | None:
        _refuse_encoder(info.data.get("architecture"), encoder)
        return encoder


class _Trained(Section):
    """A section whose network, where neither its name nor a checkpoint is given, is its task's."""

    @field_validator("model", check_fields=False)
    @classmethod
    def _of_task(cls, model: "NetworkConfig", info: ValidationInfo) -> "NetworkConfig":
        if "task" in info.data and not (model.architecture is None and info.data.get("checkpoint")):
            task = find_task(info.data["task"])
            named = model.architecture or task.usual_network(None)
            _refuse_encoder(named, model.encoder, task.name)
        return model


class _Storing(Section):
    """A section with a store, which is of use only where something is frozen."""

    @field_validator("store", check_fields=False)
    @classmethod
    def _of_frozen(cls, store: "StoreConfig | None", info: ValidationInfo) -> "StoreConfig | None":
        train = info.data.get("train")
        if store is not None and train is not None and train.layers == ALL_LAYERS:
            raise ValueError("no store where all layers are trained|give train.layers, or leave it")
        return store


class _Regions(Section):
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


class ModelConfig(_NamedNetwork):
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


class SelectConfig(ImagesSection, _Regions):
    """Configuration of `segal select`, beside what `ImagesSection` has.

    Attributes:
        task: What networks are asked, such as segmentation.
        images: Folder of the pool's images, or a `.txt` file that lists them.
        checkpoint: The network; not needed by strategies that ask for no signal, nor by those that
            need features alone where `model.encoder_weights` are given.
        model: What the checkpoint does not say, or the encoder that takes its place.
        store: Where outputs of layers that do not differ between checkpoints are kept.
        region: Region size.
        extra_regions: Further sizes to measure in the same pass, kept in the candidate tables.
        budget: How much to buy; of boxes, as many as the network expects.
        budget_fit: What becomes of picks that the budget does not buy any more, since images or
            regions differ in size: `skip` goes on to the next that it does, `prefix` ends there.
        strategy: Its name and parameters.
        labelled: Selections and run folders that are labelled already; the first of them is the
            first purchase.
        skip_missing: Go on without labelled regions of images that are not there any more.
        unique: Of images that are the same byte by byte, offer one, and count one as of the pool.
        exclude: What is never annotated, as `segal.data.exclusion.Exclusion.open` takes it: it is
            neither offered nor measured nor charged, and is not of the pool that shares are of.
        reference: Labelled images that strategies measure on which ask for a reference set; none of
            them may be in the pool.
        training: The data set that the labels of `labelled` are from; for strategies that measure
            on what is labelled.
        from_scan: A folder that `segal scan` wrote, which has the first pass over the pool.
        out: The run's folder.
        seed: Of every random draw.
        precision: Of the network's forward pass.
        embedding_dtype: Of the stored embeddings; float16 takes half the disk, and rounds gradients
            below 6e-8 (of regions that the network is very sure of) to 0.
        reducing_gap: Where the network sees images at a fraction of their size, read them at a
            half, a quarter or an eighth, but at no less than so many times what it sees. That is
            faster for JPEG files; scores differ, with 1 more than with 2 (Pillow's term). Not
            beside a store.
        skip_unreadable: Go on without images that cannot be read.
        follow_links: Links may lead out of the folder of images.
        overlays: For how many images, by best rank, to draw a picture.
        machine: How to run.
    """

    task: TaskName = DEFAULT_TASK
    images: Input[Path]
    checkpoint: FileResult[Path | None] = None
    model: Result[PoolModelConfig] = PoolModelConfig()
    store: Annotated[LayersStoreConfig | None, result_unless(None)] = None
    region: Result[RegionText] = "512"
    extra_regions: Result[Annotated[tuple[RegionText, ...], BeforeValidator(split_commas)]] = ()
    budget: Result[BudgetText]
    budget_fit: BudgetFit = "skip"
    strategy: Result[dict[str, Any]]
    labelled: Input[Paths] = ()
    skip_missing: Aside[bool] = False
    unique: Annotated[bool, result_unless(False)] = False
    exclude: Input[Path | None] = None
    reference: Input[LabelsConfig | None] = None
    training: Input[LabelsConfig | None] = None
    from_scan: Aside[Path | None] = None
    out: Aside[Path]
    seed: Result[Annotated[int, Field(ge=0, lt=2**63)]] = 0
    precision: Result[Literal["fp32", "bf16", "fp16"]] = "fp32"
    embedding_dtype: Result[Literal["float32", "float16"]] = "float32"
    reducing_gap: Annotated[Annotated[float, Field(ge=1, le=64)] | None, result_unless(None)] = None
    skip_unreadable: Result[bool] = False
    follow_links: Aside[bool] = False
    overlays: Aside[Annotated[int, Field(ge=0, le=10_000)]] = 20
    machine: Aside[MachineConfig] = MachineConfig()

    @field_validator("reducing_gap")
    @classmethod
    def _without_store(cls, gap: float | None, info: ValidationInfo) -> float | None:
        if gap is not None and info.data.get("store") is not None:
            raise ValueError("none beside a store, which reads images once|leave one of them out")
        return gap


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


class NetworkConfig(_NamedNetwork):
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


class TrainConfig(_Trained, _Storing):
    """Configuration of `segal train`.

    Attributes:
        task: What networks are asked, such as segmentation.
        data: The data set.
        labelled: Selections and run folders that are labelled; everything outside them is ignored.
            None: all of the training split is labelled.
        exclude: As in `SelectConfig`; it is not trained on, nor evaluated.
        missing_labels: What to do about labelled regions whose labels have not come: `refuse`, or
            `skip` to train on the others and write down what is owed.
        skip_missing: As in `SelectConfig`.
        checkpoint: Weights to start from.
        model: The network to start from otherwise; with a checkpoint, what must agree with it.
        train: How to train.
        store: Where outputs of the layers before `train.layers` are kept; None for nowhere.
        out: The run's folder.
        seed: Of every random draw.
        machine: How to run; `batch_size` is of the evaluation.
    """

    task: TaskName = DEFAULT_TASK
    data: Result[DataConfig]
    labelled: Input[Paths] = ()
    exclude: Input[Path | None] = None
    missing_labels: Annotated[Literal["refuse", "skip"], result_unless("refuse")] = "refuse"
    skip_missing: Aside[bool] = False
    checkpoint: FileResult[Path | None] = None
    model: Result[NetworkConfig] = NetworkConfig()
    train: Result[TrainSettings] = TrainSettings()
    store: Annotated[StoreConfig | None, result_unless(None)] = None
    out: Aside[Path]
    seed: Result[Annotated[int, Field(ge=0, lt=2**63)]] = 0
    machine: Aside[MachineConfig] = MachineConfig()


class RunConfig(_Regions, _Trained, _Storing):
    """Configuration of `segal run`: rounds of train, evaluate, scan, select and buy.

    Attributes:
        task: What networks are asked, such as segmentation.
        data: The data set. `train` is the pool, whose labels the oracle reveals where regions are
            bought; `test` is what results are reported on, or `validation` where there is no test.
            `validation` is what a `target` is measured on, is the reference set of strategies that
            ask for one, and picks the best weights unless `train.validate_every` is 0.
        checkpoint: Weights that the first round, or every round from scratch, starts from.
        model: As in `TrainConfig`.
        train: How to train in a round.
        store: As in `TrainConfig`.
        steps: `fixed`: `train.iterations` in every round. `proportional`: so many in the first
            round, and more in later ones, in proportion to the labelled pixels.
        start: Where a round's training starts: `scratch` from the initial weights, `warm` from the
            last round's network; the optimizer is new in either case.
        seed_set: What is labelled at the start.
        seed_strategy: How it is chosen, by name and parameters: at random, or by a strategy that
            needs features alone, which are the encoder's as its given weights are, or those of the
            `checkpoint` that training starts from.
        seed_region: In regions of this size; whole images by default, so that arms of any region
            size can share the seed set.
        region: Region size of what is selected.
        budgets: What is bought after each round but the last. What pixels or boxes a budget leaves
            are added to the next that counts them.
        budget_fit: As in `SelectConfig`; of the seed set, too.
        strategy: Its name and parameters.
        annotate: People label what is bought: after each selection the run stops until its labels
            have come back (see `segal export` and `segal import`); what label files of
            `data.train` say is not looked at.
        target: Stop once the metric of the task (such as mIoU) on `data.validation` reaches this,
            in [0, 1].
        measure_picks: Measure the entropy and the features of every strategy's picks, also of
            those that do not go by them, and how many of their pixels the network had wrong; this
            costs `random` a scan a round, and every strategy a pass over the images picked from.
        unique: As in `SelectConfig`.
        exclude: As in `SelectConfig`; it is not evaluated either.
        precision: Of the network's forward pass in evaluation and scan.
        embedding_dtype: Of the stored embeddings; float16 takes half the disk, and rounds gradients
            below 6e-8 (of regions that the network is very sure of) to 0.
        overlays: For how many images to draw a picture each round.
        out: The run's folder.
        seed: Of every random draw.
        machine: How to run.
    """

    task: TaskName = DEFAULT_TASK
    data: Result[DataConfig]
    checkpoint: FileResult[Path | None] = None
    model: Result[NetworkConfig] = NetworkConfig()
    train: Result[TrainSettings] = TrainSettings()
    store: Annotated[StoreConfig | None, result_unless(None)] = None
    steps: Result[Literal["fixed", "proportional"]] = "fixed"
    start: Result[Literal["scratch", "warm"]] = "scratch"
    seed_set: Result[BudgetText]
    seed_strategy: SeedStrategy = AT_RANDOM
    seed_region: Result[RegionText] = "image"
    region: Result[RegionText] = "512"
    budgets: Result[Annotated[tuple[BudgetText, ...], BeforeValidator(split_commas)]] = ()
    budget_fit: BudgetFit = "skip"
    strategy: Result[dict[str, Any]]
    annotate: Annotated[bool, result_unless(False)] = False
    target: Result[Annotated[float, Field(gt=0, le=1)] | None] = None
    measure_picks: Result[bool] = True
    unique: Annotated[bool, result_unless(False)] = False
    exclude: Input[Path | None] = None
    precision: Result[Literal["fp32", "bf16", "fp16"]] = "fp32"
    embedding_dtype: Result[Literal["float32", "float16"]] = "float32"
    overlays: Aside[Annotated[int, Field(ge=0, le=10_000)]] = 4
    out: Aside[Path]
    seed: Result[Annotated[int, Field(ge=0, lt=2**63)]] = 0
    machine: Aside[MachineConfig] = MachineConfig()

    # Of fields, and not of the whole, so that they are checked beside mistakes of other fields.
    @field_validator("data")
    @classmethod
    def _evaluated(cls, data: DataConfig) -> DataConfig:
        if not (data.test or data.validation):
            raise ValueError("a split to evaluate on|give data.test, or data.validation")
        return data

    @field_validator("target")
    @classmethod
    def _measurable(cls, target: float | None, info: ValidationInfo) -> float | None:
        data = info.data.get("data")
        if target is not None and data is not None and not data.validation:
            raise ValueError(
                "data.validation, which the target is measured on|give it, or leave target out"
            )
        return target


class ArmConfig(Section):
    """An arm of a comparison.

    Attributes:
        name: Letters, digits, `.`, `_` and `-`; names its folder.
        set: What differs from the comparison's `run`, as a nested mapping of its keys, such as
            `{strategy: {name: uwe, tau: 0.1}, region: 64}`.
        full: The fully supervised arm: all of the pool is labelled at the start, nothing is bought,
            and it takes as many optimizer steps as the other arms take together over their rounds
            when these start warm, and as many as one round's when these start from scratch.
        seeds: Instead of the comparison's, such as more of them for the primary contrast.
    """

    name: Result[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]]
    set: Result[dict[str, Any]] = Field(default_factory=dict)
    full: Result[bool] = False
    seeds: Result[Annotated[tuple[int, ...], BeforeValidator(split_commas)] | None] = None


class ContrastConfig(Section):
    """A contrast that is written down before the comparison is run.

    Attributes:
        arm: Name of an arm.
        against: Name of another.
    """

    arm: Result[str]
    against: Result[str]


class CompareConfig(Section):
    """Configuration of `segal compare`.

    Attributes:
        run: Keys of `RunConfig` that all arms share; no `out` and no `seed`.
        arms: What is compared.
        seeds: Each arm runs once with each.
        baseline: The arm that savings and areas are measured against.
        primary: The one contrast that is not exploratory, on the area under the curve.
        target: The task's metric (such as mIoU), in [0, 1], that annotation saving is measured at;
            None: the baseline's final.
        axis: What the cost is drawn in.
        permutations: Of the tests.
        label_permutation: Also report RALIF's test, which is anti-conservative.
        out: The comparison's folder.
        machine: How to run every arm.
    """

    run: Input[dict[str, Any]]
    arms: Result[Annotated[tuple[ArmConfig, ...], Field(min_length=1)]]
    seeds: Result[Annotated[tuple[int, ...], BeforeValidator(split_commas), Field(min_length=1)]]
    baseline: Result[str] = "random"
    primary: Result[ContrastConfig | None] = None
    target: Result[Annotated[float, Field(gt=0, le=1)] | None] = None
    axis: Result[Axis] = "share"
    permutations: Result[Annotated[int, Field(ge=100, le=1_000_000)]] = 10_000
    label_permutation: Result[bool] = False
    out: Aside[Path]
    machine: Aside[MachineConfig] = MachineConfig()
