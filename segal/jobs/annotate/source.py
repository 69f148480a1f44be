"""What a run says of its picks: where their images are, what is asked of them, which classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segal.annotation.questions import QUESTIONS, Question
from segal.candidates.regions import Box
from segal.config import (
    DataConfig,
    MachineConfig,
    RunConfig,
    SelectConfig,
    read_config,
    validate,
)
from segal.data.class_list import read_lines
from segal.data.images import ImageInfo
from segal.data.pool import ImagePool
from segal.errors import SegalError, raise_all
from segal.jobs.network import open_split
from segal.models.checkpoint import read_spec
from segal.runs.history import COMMAND, CONFIG_FILE
from segal.runs.ledger import Ledger, Purchase
from segal.runs.pool_log import PoolLog
from segal.system.console import bar
from segal.tasks import find_task

SELECT = "select"


def own_purchases(ledger: Ledger) -> list[Purchase]:
    """What a run bought, in order; not what was labelled before it."""
    return ledger.purchases(SELECT if ledger.command == SELECT else None)


def read_source_config(ledger: Ledger) -> SelectConfig | RunConfig | None:
    """What a run was configured with; None of a selection that has not been made yet.

    Raises:
        SegalError: If it is damaged.
    """
    path = ledger.folder / CONFIG_FILE
    if ledger.command == SELECT and not path.is_file():
        return None
    raw = read_config(path, [], {})
    config: SelectConfig | RunConfig | None
    if ledger.command == SELECT:
        config, errors = validate(SelectConfig, raw)
    else:
        config, errors = validate(RunConfig, raw)
    raise_all(errors)
    return config


@dataclass(frozen=True)
class RunSource:
    """A run whose picks people label; made by `open`.

    Attributes:
        folder: Of the run.
        config: As the run was configured.
        known: Of its images: bytes, time and what was read of them.
        purchases: All that it bought, in order, but for what is withdrawn.
        log: How its pool has changed.
        withdrawn: What it bought and is withdrawn.
    """

    folder: Path
    config: SelectConfig | RunConfig
    known: dict[str, tuple[int, int, ImageInfo]]
    purchases: Sequence[Purchase]
    log: PoolLog = field(default_factory=PoolLog)
    withdrawn: Sequence[Purchase] = ()

    @classmethod
    def open(cls, ledger: Ledger) -> "RunSource":
        """Reads a run folder.

        Raises:
            SegalError: If it is of a command that buys nothing, or its configuration is damaged.
        """
        folder = ledger.folder
        if ledger.command not in (SELECT, COMMAND):
            raise SegalError(
                f"{folder}: a run folder of segal {ledger.command}",
                expected="one of segal select or segal run, which buy regions",
                got=f"one of segal {ledger.command}",
                remedy="give the folder that was the --out of one of these",
            )
        config = read_source_config(ledger)
        if config is None:
            raise SegalError(
                f"{folder}: has not selected anything yet",
                expected="a selection that is made",
                got="one that has begun only",
                remedy="let it go on: give its segal select again",
            )
        log, bought = ledger.pool_log, own_purchases(ledger)
        kept = [p for p in bought if log.keeps(p.image, p.box)]
        gone = [p for p in bought if not log.keeps(p.image, p.box)]
        return cls(folder, config, ledger.known_images(), kept, log, gone)

    @property
    def question(self) -> Question:
        """What annotators are asked."""
        return QUESTIONS[self.config.task]

    def region_of(self, image: str, box: Box) -> tuple[Box, tuple[int, int]]:
        """What a purchase is of an image, in its pixels: where whole images have labels, all of it.

        Returns:
            The region, and (height, width) of the image.
        """
        info = self.known[image][2]
        size = info.height, info.width
        return ((0, 0, info.width, info.height) if self.question.of_wholes else box), size

    def classes(self, given: Path | None, images: Path | None = None) -> tuple[str, ...]:
        """Names of the classes: of a list that is given, of the network, or of the data set.

        Args:
            given: The list.
            images: Where the data set is now, if it moved.

        Raises:
            SegalError: If none is known.
        """
        if given is not None:
            return tuple(read_lines(given, "a class a line, by its name"))
        config = self.config
        if isinstance(config, RunConfig):
            data = self._data(config, images)
            return find_task(config.task).outline(data, data.train).class_names
        spec = None
        if config.checkpoint is not None and config.checkpoint.is_file():
            spec = read_spec(config.checkpoint)
        if spec is not None:
            return spec.class_names
        raise SegalError(
            f"{self.folder}: the names of the classes are not known",
            expected="a checkpoint of segal that is still where it was, or a list",
            got=f"checkpoint: {config.checkpoint}",
            remedy="give --classes FILE, with a name a line, in the order of the network's classes",
        )

    def pool(self, images: Path | None) -> ImagePool:
        """The run's images, by their names in it.

        Args:
            images: Where they are now, if they moved; None for where they were.

        Raises:
            SegalError: If they are not there, or not those of the run.
        """
        pool = self.log.pool(self.opened(images))
        self._check(pool)
        return pool

    def opened(self, images: Path | None) -> ImagePool:
        """All images that are there now, by their files' names; `images` is as of `pool`.

        Raises:
            SegalError: If they are not there, or cannot be read.
        """
        config = self.config
        known = {self.log.files.get(name, name): one for name, one in self.known.items()}
        with bar("Checking images") as advance:
            if isinstance(config, RunConfig):
                data = self._data(config, images)
                return open_split(
                    *(config.task, data, data.train, MachineConfig(), advance),
                    known=known,
                    missing_labels=True,
                ).pool
            return find_task(config.task).open_pool(
                images or config.images,
                reading=config.reading,
                known=known,
                progress=advance,
                follow_links=config.follow_links,
                skip_unreadable=config.skip_unreadable,
            )

    def _data(self, config: RunConfig, images: Path | None) -> DataConfig:
        root = config.data.root if images is None else images
        return config.data.model_copy(update={"root": root})

    def _check(self, pool: ImagePool) -> None:
        """Raises a SegalError unless the images that something was bought of are the run's."""
        there = {path: info.digest for path, info in zip(pool.paths, pool.infos, strict=True)}
        wanted = sorted({p.image for p in self.purchases})
        errors = [
            SegalError(
                f"{pool.root / name}: not the image that was selected from",
                expected="the file that it was then",
                got="another file" if name in there else "no such image",
                remedy="put it back, or say where the images are with --images",
            )
            for name in wanted
            if there.get(name) != self.known[name][2].digest
        ]
        raise_all(errors[:20])
