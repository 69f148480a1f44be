"""Masks of a selection as its ledger tells them: made again where they are lost."""

from functools import cached_property

from segal.candidates.regions import Box
from segal.candidates.selection import MASKS_FOLDER, mask_name, mask_png
from segal.config import SelectConfig
from segal.data.exclusion import Excluded, Exclusion
from segal.data.image_list import images_at
from segal.data.images import ImageInfo
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.jobs.annotate.source import SELECT, read_source_config
from segal.jobs.exclusions import excluded_of
from segal.models.spec import DEFAULT_TASK
from segal.runs.ledger import Ledger
from segal.runs.pool_log import PoolLog
from segal.system.files import write_bytes


class Masks:
    """The masks of a selection.

    Args:
        ledger: Of the run.
        log: How its pool has changed, or would have; by default as the ledger has it.
    """

    def __init__(self, ledger: Ledger, log: PoolLog | None = None) -> None:
        self.ledger, self.log = ledger, ledger.pool_log if log is None else log

    def repair(self) -> list[str]:
        """Writes masks that are missing or damaged, and records them.

        Returns:
            What cannot be made, a line each.
        """
        if not self._has_masks:
            return []
        damaged = {path for path, *_ in self.ledger.damaged()}
        recorded = {path for path, *_ in self.ledger.artefacts(SELECT, 0)}
        problems = []
        for name in self._asked:
            if name in recorded and name not in damaged:
                continue
            try:
                data = self._png(name)
            except SegalError as error:
                problems.append(f"{name} cannot be made again: {error.problem}")
                continue
            write_bytes(self.ledger.folder / name, data)
            self.ledger.renew(SELECT, 0, self.ledger.folder / name)
        return problems

    def makes(self, name: str) -> bool:
        """Whether `repair` would make a file of the run folder, if it were missing."""
        if not self._has_masks or name not in self._asked:
            return False
        try:
            self._png(name)
        except SegalError:
            return False
        return True

    @property
    def _has_masks(self) -> bool:
        task = self.ledger.configuration.get("task", DEFAULT_TASK)
        is_made = self.ledger.command == SELECT and self.ledger.phase(SELECT, 0) is not None
        return is_made and task == DEFAULT_TASK

    @cached_property
    def _asked(self) -> dict[str, tuple[str, list[Box]]]:
        """By the name of its mask, each image with its regions."""
        found: dict[str, tuple[str, list[Box]]] = {}
        for one in self.ledger.purchases(SELECT, 0):
            if self.log.keeps(one.image, one.box):
                name = f"{MASKS_FOLDER}/{mask_name(one.image)}"
                found.setdefault(name, (one.image, []))[1].append(one.box)
        return found

    def _png(self, name: str) -> bytes:
        image, boxes = self._asked[name]
        labelled = [p.box for p in self.ledger.purchases("labelled", 0) if p.image == image]
        withdrawn = self.log.boxes.get(image, ())
        left = [*labelled, *self._excluded.get(image, ()), *withdrawn]
        return mask_png(self._sizes[image], boxes, left)

    @cached_property
    def _sizes(self) -> dict[str, tuple[int, int]]:
        rows = self.ledger.rows("SELECT path, height, width FROM images")
        return {path: (height, width) for path, height, width in rows}

    @cached_property
    def _excluded(self) -> Excluded:
        """What is never annotated, which the ledger knows the size of only."""
        if not self.ledger.excluded_images():
            return {}
        config = read_source_config(self.ledger)
        assert isinstance(config, SelectConfig)
        exclude = config.exclude
        if exclude and Exclusion.open(exclude).digest() != self.ledger.configuration["exclude"]:
            raise SegalError(f"{exclude} excludes something else than it did then")
        files = {name: file for file, name in self.log.files.items()}
        pool = ImagePool(
            root=images_at(config.images)[0],
            paths=tuple(self._sizes),
            infos=tuple(ImageInfo(*size, "") for size in self._sizes.values()),
            stats=((0, 0),) * len(self._sizes),
            reading=config.reading,
            files=tuple(files.get(name, name) for name in self._sizes),
        )
        return excluded_of(exclude, pool, config.task, all_there=False)
