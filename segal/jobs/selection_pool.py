"""What a selection looks at: the pool, what of it is labelled or left out, and the pass over it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from segal.candidates.regions import Box, RegionSize
from segal.config import SelectConfig
from segal.data.exclusion import Excluded, uncovered
from segal.data.image_sets import ImageSet, SetName
from segal.data.images import ImageInfo
from segal.data.pool import ImagePool
from segal.jobs.cold_start import is_encoder
from segal.jobs.copies import copies_notes, without_copies
from segal.jobs.exclusions import excluded_of, no_parts, takes_parts
from segal.jobs.inputs import by_index, check_channels, check_reduced, scan_settings
from segal.jobs.keeping import Keeping
from segal.jobs.large import check_large
from segal.jobs.prices import signals_of
from segal.jobs.reference import SelectionLabels
from segal.models.wrapped import Model
from segal.runs.acquisition import SCAN, derive_seed
from segal.runs.pool_log import PoolLog
from segal.runs.run_folder import fingerprint
from segal.scanning.scan import Scan
from segal.signals import Signal
from segal.strategies.base import Strategy, check_images
from segal.system.console import bar, tell
from segal.system.machine import readers
from segal.tasks import find_task

_ROUND = 0
_NOT_MEASURED = {
    *("budget", "budget_fit", "strategy", "region", "extra_regions", "seed", "exclude", "unique"),
    *("checkpoint", "precision", "embedding_dtype", "skip_unreadable"),
}
"""Keys that say nothing more of the rows of a scan than the scan itself does."""
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


@dataclass(frozen=True)
class SelectionPool:
    """The pool of a selection.

    Attributes:
        pool: What is measured.
        whole: The same, with copies that are not offered.
        labelled: What is labelled already, by image index.
        never_annotated: What the configuration excludes.
        excluded: That, and what is withdrawn.
        notes: What the user should be told of the images.
    """

    pool: ImagePool
    whole: ImagePool
    labelled: Mapping[int, list[Box]]
    never_annotated: Excluded
    excluded: Excluded
    notes: Sequence[str]

    @classmethod
    def open(
        cls,
        config: SelectConfig,
        strategy: Strategy,
        labels: SelectionLabels,
        model: Model | None,
        log: PoolLog,
        known: Mapping[str, tuple[int, int, ImageInfo]],
    ) -> "SelectionPool":
        """Looks at all images.

        Args:
            config: The configuration.
            strategy: What will choose.
            labels: What is labelled; of `log` it is told.
            model: The network.
            log: How the pool has changed.
            known: As `segal.data.pool.open_pool` takes it.

        Raises:
            SegalError: If images cannot be read, or are not what the network or the strategy takes.
        """
        labels.labelled.own = log.withdrawn
        withdrawn = labels.labelled.withdrawn
        whole, notes = _open_pool(config, model, known)
        whole = log.pool(whole)
        whole = whole.subset(withdrawn.left(whole)) if withdrawn else whole
        notes += [*splits_notes(whole.paths), *copies_notes(whole, unique=config.unique)]
        check_images(strategy, whole.paths)
        check_large(config, strategy, whole)
        pool, labelled = whole, labels.labelled.boxes(whole)
        if config.unique:
            pool, labelled = without_copies(whole, labelled)
        never_annotated = excluded_of(config.exclude, whole, config.task, all_there=not log.changes)
        if withdrawn.boxes and not takes_parts(strategy):
            raise no_parts(config)
        excluded = withdrawn.together(whole, never_annotated)
        left = {
            image: found
            for image, boxes in labelled.items()
            if (found := uncovered(boxes, excluded.get(pool.paths[image], ())))
        }
        return cls(pool, whole, left, never_annotated, excluded, notes)

    def sets(self, config: SelectConfig, labels: SelectionLabels) -> dict[SetName, ImageSet]:
        """The sets of images that signals may look at; raises as `SelectionLabels.sets` does."""
        return labels.sets(config, self.pool, self.labelled, self.whole, self.excluded)


def splits_notes(paths: Iterable[str]) -> list[str]:
    """What to tell of a pool that holds several splits of a data set: nothing where it does not.

    Args:
        paths: Of all images, relative to the pool's folder.

    Examples:
        >>> splits_notes(["train/a.png", "red/b.png"])
        []
    """
    found = sorted({path.split("/", 1)[0] for path in paths if "/" in path} & _SPLITS)
    if len(found) < 2:
        return []
    return [
        f"The pool holds images of the splits {', '.join(found)}: for those of one alone give its "
        "own folder."
    ]


@dataclass(frozen=True)
class SelectionScan:
    """The passes of a selection over its pool.

    Attributes:
        config: The configuration.
        looked_at: The pool.
        sets: Sets of images that signals may look at.
        model: The network, on the device.
        device: Where it runs.
        keeping: Where outputs of the network's frozen part are kept.
        identity: What the selection depends on, but for the images.
    """

    config: SelectConfig
    looked_at: SelectionPool
    sets: Mapping[SetName, ImageSet]
    model: Model | None
    device: torch.device
    keeping: Keeping
    identity: Mapping[str, object] = field(default_factory=dict)

    def of(self, signals: Sequence[Signal]) -> Scan:
        """The pass that measures some signals."""
        config, pool = self.config, self.looked_at.pool
        sizes = dict.fromkeys([config.region, *config.extra_regions])
        return Scan(
            pool=self.keeping.pool(self.model, pool),
            task=find_task(config.task),
            regions=[RegionSize.parse(size) for size in sizes],
            settings=scan_settings(config, self.device),
            signals=list(dict.fromkeys([*signals, *signals_of(config.budget)])),
            model=self.model,
            labelled=self.looked_at.labelled,
            excluded=by_index(pool, self.looked_at.excluded),
            sets=self.keeping.sets(self.model, self.sets),
            seed=derive_seed(config.seed, _ROUND, SCAN),
            configuration=self._beside(),
        )

    def _beside(self) -> str:
        """Identifies what rows depend on that the scan does not know of."""
        beside = {key: v for key, v in self.identity.items() if key not in _NOT_MEASURED}
        strategy = self.identity.get("strategy")
        code = strategy.get("code") if isinstance(strategy, Mapping) else None
        return fingerprint([beside, code])


def _open_pool(
    config: SelectConfig,
    model: Model | None,
    known: Mapping[str, tuple[int, int, ImageInfo]],
) -> tuple[ImagePool, list[str]]:
    answering = None if is_encoder(config) else model  # an encoder gives no answer
    with bar("Checking images") as advance:
        pool = find_task(config.task).open_pool(
            config.images,
            skip_unreadable=config.skip_unreadable,
            follow_links=config.follow_links,
            reading=config.reading,
            classes=None if answering is None else answering.spec.num_classes,
            known=known,
            workers=readers(config.machine.workers),
            progress=advance,
        )
    notes = []
    if pool.skipped:
        notes.append(f"Skipped {len(pool.skipped)} unreadable images.")
        tell("Skipped: " + "; ".join(pool.skipped))
    if model is not None:
        check_channels(model.spec, pool)
        if config.reducing_gap is not None:
            check_reduced(model.spec, pool, config.reducing_gap)
    return pool, [*notes, *pool.notes()]
