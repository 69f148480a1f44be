"""Looks at what a round picked: what it is like, how much of it the network had wrong, pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segal.candidates.regions import Box
from segal.candidates.selection import Selected
from segal.candidates.table import CandidateTable
from segal.config import RunConfig
from segal.data.exclusion import Excluded
from segal.data.pool import ImagePool
from segal.jobs.keeping import Keeping
from segal.jobs.picks import boxes_of, describe_picks, rows_of
from segal.models.wrapped import Model
from segal.runs.history import OVERLAYS_FOLDER, PICKS_FILE
from segal.runs.oracle import Oracle
from segal.signals import Value
from segal.system.console import bar
from segal.system.files import remove, write_json
from segal.system.machine import readers
from segal.tasks import task_of
from segal.tasks.drawing import Drawn


@dataclass(frozen=True)
class Inspection:
    """What the look at a round's picks needs.

    Attributes:
        config: Of the run.
        device: Where the network runs.
        pool: The images.
        oracle: Knows the labels.
        value: The uncertainty to draw.
        bought: Boxes that were bought before, by image.
        excluded: What is never annotated.
        keeping: Where outputs of the network's frozen part are kept.
    """

    config: RunConfig
    device: torch.device
    pool: ImagePool
    oracle: Oracle
    value: Value
    bought: Mapping[str, Sequence[Box]]
    excluded: Excluded
    keeping: Keeping

    def write(
        self,
        folder: Path,
        number: int,
        selected: Sequence[Selected],
        table: CandidateTable,
        model: Model,
    ) -> list[Path]:
        """Writes what the picks are like, and pictures of them.

        Args:
            folder: Of the round.
            number: The round.
            selected: The picks.
            table: The candidates, as the round's first pass measured them.
            model: The network that the picks were made with.

        Returns:
            The files.
        """
        picks: dict[str, Any] = {"region": self.config.region, "count": len(selected)}
        picks |= describe_picks(table, rows_of(table, selected))
        if self.config.measure_picks and not self.oracle.asks_people:
            picks |= self._mistakes(number, selected, model)
        write_json(folder / PICKS_FILE, picks)
        overlays = folder / OVERLAYS_FOLDER
        remove(overlays)
        overlays.mkdir(parents=True)
        if self.config.overlays:
            boxes = boxes_of(selected)
            with bar(f"Round {number}: drawing pictures") as advance:
                drawn = Drawn(
                    self.keeping.pool(model, self.pool),
                    model,
                    self.value,
                    self.bought,
                    self.config.precision,
                    label=None
                    if self.oracle.asks_people
                    else lambda image: self.oracle.label(image, boxes[image]),
                    excluded=self.excluded,
                )
                task_of(model.spec).draw(overlays, selected, self.config.overlays, drawn, advance)
        return [folder / PICKS_FILE, overlays]

    def _mistakes(
        self, number: int, selected: Sequence[Selected], model: Model
    ) -> dict[str, float]:
        picked = self.oracle.reveal(boxes_of(selected))
        with bar(f"Round {number}: comparing the picks with their labels") as advance:
            return task_of(model.spec).mistakes(
                model,
                self.keeping.dataset(model, picked.subset(sorted(picked.bought))),
                device=self.device,
                batch_size=self.config.machine.batch_size,
                workers=readers(self.config.machine.workers, self.device),
                precision=self.config.precision,
                progress=advance,
            )
