"""What can be configured: one class a command."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from segal.config.sections import (
    DataConfig,
    ImagesSection,
    LabelsConfig,
    LayersStoreConfig,
    MachineConfig,
    NetworkConfig,
    PoolModelConfig,
    Regions,
    StoreConfig,
    Storing,
    Trained,
)
from segal.config.values import (
    AT_RANDOM,
    BudgetFit,
    BudgetText,
    Paths,
    RegionText,
    SeedStrategy,
    TaskName,
)
from segal.models.spec import DEFAULT_TASK
from segal.runs.history import Axis
from segal.system.sections import (
    Aside,
    FileResult,
    Input,
    Result,
    Section,
    result_unless,
    split_commas,
)
from segal.training.settings import TrainSettings


class SelectConfig(ImagesSection, Regions):
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


class TrainConfig(Trained, Storing):
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


class RunConfig(Regions, Trained, Storing):
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
