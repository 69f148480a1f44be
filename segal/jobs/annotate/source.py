"""What a run says of its picks: where their images are, what is asked of them, which classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segal.annotation.questions import QUESTIONS, Question
from segal.candidates.regions import Box
from segal.config import MachineConfig, RunConfig, SelectConfig, read_config, validate
from segal.data.class_list import read_lines
from segal.data.images import ImageInfo
from segal.data.pool import ImagePool
from segal.errors import SegalError, raise_all
from segal.jobs.network import open_split
from segal.models.checkpoint import read_spec
from segal.runs.history import COMMAND, CONFIG_FILE
from segal.runs.ledger import Ledger, Purchase
from segal.system.console import bar
from segal.tasks import find_task

SELECT = "select"


def own_purchases(ledger: Ledger) -> list[Purchase]:
    """What a run bought, in order; not what was labelled before it."""
    return ledger.purchases(SELECT if ledger.command == SELECT else None)


@dataclass(frozen=True)
class RunSource:
    """A run whose picks people label; made by `open`.

    Attributes:
        folder: Of the run.
        config: As the run was configured.
        known: Of its images: bytes, time and what was read of them.
        purchases: All that it bought, in order.
    """

    folder: Path
    config: SelectConfig | RunConfig
    known: dict[str, tuple[int, int, ImageInfo]]
    purchases: Sequence[Purchase]

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
        raw = read_config(folder / CONFIG_FILE, [], {})
        config: SelectConfig | RunConfig | None
        if ledger.command == SELECT:
            config, errors = validate(SelectConfig, raw)
        else:
            config, errors = validate(RunConfig, raw)
        raise_all(errors)
        assert config is not None
        return cls(folder, config, ledger.known_images(), own_purchases(ledger))

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

    def classes(self, given: Path | None) -> tuple[str, ...]:
        """Names of the classes: of a list that is given, of the network, or of the data set.

        Raises:
            SegalError: If none is known.
        """
        if given is not None:
            return tuple(read_lines(given, "a class a line, by its name"))
        config = self.config
        if isinstance(config, RunConfig):
            return find_task(config.task).outline(config.data, config.data.train).class_names
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
        """The run's images.

        Args:
            images: Where they are now, if they moved; None for where they were.

        Raises:
            SegalError: If they are not there, or not those of the run.
        """
        config = self.config
        with bar("Checking images") as advance:
            if isinstance(config, RunConfig):
                data = config.data
                if images is not None:
                    data = data.model_copy(update={"root": images})
                pool = open_split(
                    *(config.task, data, data.train, MachineConfig(), advance),
                    known=self.known,
                    missing_labels=True,
                ).pool
            else:
                pool = find_task(config.task).open_pool(
                    images or config.images,
                    reading=config.reading,
                    known=self.known,
                    progress=advance,
                    follow_links=config.follow_links,
                    skip_unreadable=config.skip_unreadable,
                )
        self._check(pool)
        return pool

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
