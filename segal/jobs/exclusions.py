"""What a configuration excludes, and whether it can be."""

from collections.abc import Sequence
from pathlib import Path

from segal.config import RunConfig, SelectConfig, TrainConfig
from segal.data.exclusion import Excluded, RestOfDataset, never_annotated, uncovered
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.jobs.labelled import Boxes
from segal.models.spec import DEFAULT_TASK
from segal.signals import Pooled
from segal.strategies import STRATEGIES
from segal.strategies.base import PassContext, Strategy
from segal.tasks import find_task


def excluded_of(
    exclude: Path | None, pool: ImagePool, task: str, *, all_there: bool = True
) -> Excluded:
    """What is never annotated of a pool's images.

    Args:
        exclude: What is excluded; None for nothing.
        pool: The images.
        task: What networks are asked.
        all_there: As `Exclusion.of` takes it.

    Raises:
        SegalError: As `never_annotated` does.
    """
    no_data = find_task(task).in_tiles
    return never_annotated(exclude, [pool], no_data=no_data, all_there=all_there)[0]


def without_excluded(
    exclude: Path | None, datasets: Sequence[LabelledDataset], task: str, *, all_there: bool = True
) -> list[LabelledDataset]:
    """The data sets, without labels where something is never annotated.

    Args:
        exclude: What is excluded; None for nothing.
        datasets: They.
        task: What networks are asked.
        all_there: As `Exclusion.of` takes it.

    Raises:
        SegalError: As `never_annotated` does.
    """
    no_data = find_task(task).in_tiles
    pools = [dataset.pool for dataset in datasets]
    found = never_annotated(exclude, pools, no_data=no_data, all_there=all_there)
    pairs = zip(datasets, found, strict=True)
    return [RestOfDataset.of(d, boxes) if boxes or exclude else d for d, boxes in pairs]


def annotated(labelled: Boxes, dataset: LabelledDataset) -> Boxes:
    """Labelled boxes by image index, without those that are excluded as a whole."""
    if not isinstance(dataset, RestOfDataset):
        return labelled
    left = {i: uncovered(b, dataset.excluded.get(i, ())) for i, b in labelled.items()}
    return {i: boxes for i, boxes in left.items() if boxes}


def refuse_task(config: SelectConfig | RunConfig | TrainConfig) -> list[SegalError]:
    """What is wrong with excluding a part of images whose parts nobody labels."""
    if config.exclude is None or config.task == DEFAULT_TASK:
        return []
    return [
        SegalError(
            f"exclude: not in {config.task}",
            expected="images of which pixels are labelled",
            got=f"task: {config.task}",
            remedy="leave it out, and take whole images out of the folder",
        )
    ]


def unfit_exclusion(config: SelectConfig | RunConfig, strategy: Strategy) -> list[SegalError]:
    """The same, and strategies that look at whole rectangles."""
    errors = refuse_task(config)
    if config.exclude is None or errors or takes_parts(strategy):
        return errors
    fit = ", ".join(name for name in STRATEGIES if takes_parts(STRATEGIES.get(name)()))
    return [
        SegalError(
            f"exclude: not with {config.strategy['name']}",
            expected=f"a strategy that can leave a part of a region out: {fit}",
            got="one that looks at whole rectangles",
            remedy="choose one of these, or leave exclude out",
        )
    ]


def no_parts(config: SelectConfig | RunConfig) -> SegalError:
    """The error where regions are withdrawn, and a strategy looks at whole rectangles."""
    return SegalError(
        f"labelled: regions are withdrawn, and {config.strategy['name']} takes whole rectangles",
        expected="a strategy that can leave a part of a region out",
        got=str(config.strategy["name"]),
        remedy="choose another, such as entropy or uwe; or withdraw the images as wholes",
    )


def takes_parts(strategy: Strategy) -> bool:
    """Whether a strategy can leave a part of a region out."""
    signals = next(iter(strategy.passes(PassContext())), [])
    return all(isinstance(signal, Pooled) for signal in signals)
