"""The sets of images that signals measure on before a pass, and what may be wrong with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segal.candidates.regions import Box
from segal.config import LabelsConfig, MachineConfig, RunConfig, SelectConfig
from segal.data.exclusion import Excluded, together
from segal.data.image_file import Reading
from segal.data.image_sets import ImageSet, SetName
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.functional.labels import count_labelled
from segal.jobs.exclusions import without_excluded
from segal.jobs.inputs import by_index, check_channels, image_digests
from segal.jobs.labelled import Labelled
from segal.jobs.labels import (
    check_labels,
    class_notes,
    owed_regions,
    refuse_owed,
    refuse_unlabelled,
)
from segal.models.spec import ModelSpec
from segal.runs.oracle import Oracle
from segal.runs.run_folder import fingerprint
from segal.signals import Need
from segal.strategies.base import PassContext, Strategy
from segal.system.console import bar, tell
from segal.system.machine import readers
from segal.tasks import Task, find_task
from segal.tasks.classes import check_classes

_SHOWN = 5


def needs_of(strategy: Strategy) -> frozenset[Need]:
    """The sets of images that a strategy's signals look at before a pass."""
    signals = next(iter(strategy.passes(PassContext())), [])
    return frozenset(need for signal in signals for need in signal.needs)


def unmet_needs(config: SelectConfig | RunConfig, strategy: Strategy) -> list[SegalError]:
    """What a strategy measures on and the configuration does not give, known before any work."""
    needs = needs_of(strategy)
    sets = {need.of for need in needs}
    with_labels = {need.of for need in needs if need.labels}
    name = config.strategy.get("name")
    if isinstance(config, RunConfig):
        if "val" in sets and not config.data.validation:
            return [_unmet("data.validation", f"the split that {name} measures on", "val")]
        return []
    errors = []
    if "val" in sets and config.reference is None:
        errors.append(
            _unmet(
                "reference",
                f"labelled images outside the pool, which {name} measures on",
                "reference.root=FOLDER reference.split=val",
            )
        )
    if sets & {"initial", "labelled"} and not config.labelled:
        errors.append(
            _unmet("labelled", f"labelled regions, which {name} measures on", "--labelled FILE")
        )
    if with_labels & {"initial", "labelled"} and config.training is None:
        errors.append(
            _unmet(
                "training",
                f"the labels of what is labelled, which {name} measures on",
                "training.root=FOLDER training.split=train",
            )
        )
    return errors


def _unmet(key: str, expected: str, remedy: str) -> SegalError:
    return SegalError(f"{key}: missing", expected=expected, got="nothing", remedy=f"give {remedy}")


@dataclass(frozen=True)
class SelectionLabels:
    """The labelled data sets of a selection, as far as its strategy looks at them.

    Attributes:
        labelled: What is labelled already.
        reference: Whole images outside the pool.
        training: The images that regions are labelled of; without it their void pixels are unknown,
            and count like any other.
    """

    labelled: Labelled
    reference: LabelledDataset | None = None
    training: LabelledDataset | None = None

    @classmethod
    def open(cls, config: SelectConfig, strategy: Strategy) -> "SelectionLabels":
        """Opens what is needed, and checks the labels.

        Raises:
            SegalError: If a data set is missing or damaged, or the reference set has no label.
        """
        needs = needs_of(strategy)
        labelled = Labelled.open(config.labelled, skip_missing=config.skip_missing)
        reference = training = None
        task = find_task(config.task)
        if config.reference is not None and "val" in {need.of for need in needs}:
            reference = open_labels(task, config.reference.beside(config), config.machine)
        if config.training is not None and {need.of for need in needs} & {"initial", "labelled"}:
            given = config.training.beside(config)
            training = open_labels(task, given, config.machine, labelled)
        reference, training = (
            one and without_excluded(config.exclude, [one], config.task, all_there=False)[0]
            for one in (reference, training)
        )
        return cls(labelled, reference, training)

    def identity(self, reading: Reading) -> dict[str, str]:
        """What results depend on.

        Args:
            reading: How the pool's images are read, which counts elsewhere.
        """
        opened = {"reference": self.reference, "training": self.training}
        found = {}
        for name, dataset in opened.items():
            if dataset is not None:
                parts: list[object] = [image_digests(dataset.pool), dataset.digest()]
                if dataset.pool.reading != reading:
                    parts.append(dataset.pool.reading.identity())
                found[name] = fingerprint(parts)
        return found

    def check(self, spec: ModelSpec) -> None:
        """Raises a SegalError if one of them has other classes or channels than the network."""
        for dataset in (self.reference, self.training):
            if dataset is not None:
                check_classes(spec, dataset)
                check_channels(spec, dataset.pool)

    def sets(
        self,
        config: SelectConfig,
        pool: ImagePool,
        labelled: Mapping[int, Sequence[Box]],
        whole: ImagePool,
        excluded: Excluded,
    ) -> dict[SetName, ImageSet]:
        """The sets of images that signals may look at.

        Args:
            config: The configuration.
            pool: The pool.
            labelled: Boxes that are labelled, by image index.
            whole: The pool with copies that are not offered, of which something may be labelled.
            excluded: What is never annotated of it.

        Raises:
            SegalError: If the reference set shares images with the pool, or the images that
                `training` has labels of are not those of the pool.
        """
        left_out = together({pool.paths[i]: boxes for i, boxes in labelled.items()}, excluded)
        out = {i: left_out[path] for i, path in enumerate(pool.paths) if path in left_out}
        sets: dict[SetName, ImageSet] = {"pool": ImageSet(pool, outside=out)}
        if self.reference is not None:
            check_apart(self.reference.pool, pool)
            sets["val"] = ImageSet(self.reference.pool, self.reference)
        dataset, images = self.training, whole if self.training is None else self.training.pool
        if self.training is not None:
            _check_same(self.training.pool, whole)
        if config.labelled:
            found = self.labelled.boxes(images)
            if self.training is not None:
                _refuse_none_arrived(self.training, found)
            # Labels of `training` know nothing of what is excluded.
            none = by_index(images, excluded) if dataset is None else {}
            sets["initial"] = ImageSet(images, dataset, self.labelled.first(images), none)
            sets["labelled"] = ImageSet(images, dataset, found, none)
        return sets


def run_sets(
    oracle: Oracle,
    pool: ImagePool,
    validation: LabelledDataset | None,
    seed_set: Mapping[str, Sequence[Box]],
    bought: Mapping[str, Sequence[Box]],
    excluded: Excluded,
) -> dict[SetName, ImageSet]:
    """The sets of images of a round.

    Args:
        oracle: Reveals the labels of what is bought.
        pool: The pool.
        validation: The reference set.
        seed_set: Boxes by image that were bought before the first round.
        bought: Boxes by image that are bought by now.
        excluded: What is never annotated.
    """
    sets: dict[SetName, ImageSet] = {
        "initial": ImageSet(pool, oracle.reveal(seed_set), oracle.by_index(seed_set)),
        "labelled": ImageSet(pool, oracle.reveal(bought), oracle.by_index(bought)),
        "pool": ImageSet(pool, outside=oracle.by_index(together(bought, excluded))),
    }
    if validation is not None:
        sets["val"] = ImageSet(validation.pool, validation)
    return sets


def check_apart(reference: ImagePool, pool: ImagePool) -> None:
    """Raises a SegalError, which names them, if images of a reference set are in the pool."""
    in_pool = {digest for _, digest in image_digests(pool)}
    shared = [path for path, digest in image_digests(reference) if digest in in_pool]
    if shared:
        more = f" and {len(shared) - _SHOWN} more" if len(shared) > _SHOWN else ""
        raise SegalError(
            f"{reference.root}: the reference set shares images with the pool",
            expected="images that are not in the pool, nor trained on",
            got=", ".join(shared[:_SHOWN]) + more,
            remedy="choose another split, or take these images out of one of the two",
        )


def _check_same(labelled: ImagePool, pool: ImagePool) -> None:
    digests = dict(image_digests(pool))
    others = [p for p, digest in image_digests(labelled) if digests.get(p, digest) != digest]
    if others:
        raise SegalError(
            f"{labelled.root}: other images than the pool's of the same name",
            expected=f"the images below {pool.root}, which the regions were selected from",
            got=", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else ""),
            remedy="give the data set whose images the pool is as training.root",
        )


def _refuse_none_arrived(dataset: LabelledDataset, labelled: Mapping[int, Sequence[Box]]) -> None:
    """Says which labelled regions are void all over; a SegalError if all of them are."""
    owed = owed_regions(dataset, dataset.check(within=labelled).empty)
    bought = sum(map(len, labelled.values()))
    refuse_owed(owed, bought, dataset.pool.root, "skip", dataset.pool.unit)
    if owed:
        named = ", ".join(f"{s.image} at x {s.box[0]}, y {s.box[1]}" for s in owed[:_SHOWN])
        more = f" and {len(owed) - _SHOWN} more" if len(owed) > _SHOWN else ""
        tell(f"Labelled regions without any label: {named}{more}")


def reference_cost(reference: LabelledDataset) -> dict[str, int]:
    """What the labels of a reference set come to: images, and pixels that are not void."""
    pixels, images = 0, len(reference)
    with bar("Counting reference labels") as advance:
        for i in range(images):
            pixels += count_labelled(reference.read_label(i))
            advance(i + 1, images)
    return {"images": images, "pixels": pixels}


def reference_note(strategy: str, cost: Mapping[str, int], pool_pixels: int, unit: str) -> str:
    """The cost of a reference set in a line; it is beside what the budgets buy."""
    share = 100 * cost["pixels"] / pool_pixels
    return (
        f"{strategy} also measures on a reference set: the labels of {cost['images']} images, "
        f"worth {share:.2f} % of the pool's {unit}, which the budget does not include."
    )


def open_labels(
    task: Task, config: LabelsConfig, machine: MachineConfig, given: Labelled | None = None
) -> LabelledDataset:
    """Opens a labelled split, and checks every label.

    Args:
        task: What networks are asked.
        config: Which.
        machine: How to run.
        given: What is labelled: only images of which something is are opened, and the labels
            that annotators gave back count; all images by default.

    Raises:
        SegalError: If something is missing or damaged, or no pixel has a label.
    """
    with bar(f"Checking images of {config.split}") as advance:
        dataset = task.open_split(
            *(config, config.split, None if given is None else given.images),
            missing_labels=given is not None and given.has_answers,
            workers=readers(machine.workers),
            progress=advance,
        )
    if given is not None:
        dataset = given.answered(dataset, task.name)
    tell(*dataset.pool.notes(labelled=True) + class_notes(dataset))
    refuse_unlabelled(dataset, config.split, check_labels(dataset, config.split), "measured on")
    return dataset
