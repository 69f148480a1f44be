"""Pictures of explained images: contact sheets of both ends of the order of their scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from segal.pictures.contact_sheet import MOST, Line, Scale, Tile, contact_sheet, encoded
from segal.tasks.classification.drawing import holds_features, small, table
from segal.tasks.classification.predicted import Prediction, predictions
from segal.tasks.explaining import Explainer, Explaining, Pictures, ScoredImage

HURTING_FILE, HELPING_FILE = "hurting_most.png", "helping_most.png"
SCORES_FILE = "scores.csv"
_COLOURS = "RdBu_r"  # red above 0
_NONE_MOVES = 1e-12  # end of the scale of scores that are 0 everywhere


@dataclass(frozen=True)
class _Scored:
    """What is kept of an image; of several classes, `moving` has the score furthest from 0."""

    index: int
    score: float
    entropy: float
    prediction: Prediction
    moving: tuple[int, float] | None


class SheetsExplainer(Explainer):
    """A sheet of the images that hurt most, one of those that help most, and a table of all.

    The score of an image is the mean over its elements. Of features there is the table alone.
    """

    def __init__(self, explaining: Explaining) -> None:
        super().__init__(explaining)
        self._scored: list[_Scored] = []

    def add(self, image: ScoredImage) -> None:
        """Keeps its numbers."""
        (prediction,) = predictions(image.logits[None], len(self.explaining.classes.names))
        moving = None
        if prediction.several:
            place = int(np.abs(image.scores).argmax())
            moving = place, float(image.scores.flat[place])
        self._scored.append(
            _Scored(image.index, image.mean, image.mean_entropy, prediction, moving)
        )

    def draw(self, folder: Path, progress: Callable[[int, int], None]) -> Pictures:
        """Draws the sheets and writes the table."""
        order = sorted(self._scored, key=lambda scored: -scored.score)
        (folder / SCORES_FILE).write_bytes(table([self._fields(scored) for scored in order]))
        top = max(abs(order[0].score), abs(order[-1].score), _NONE_MOVES)
        ends = {
            HURTING_FILE: [scored for scored in order if scored.score > 0],
            HELPING_FILE: [scored for scored in reversed(order) if scored.score < 0],
        }
        shown: dict[int, str] = {}
        for done, (file, end) in enumerate(ends.items(), 1):
            if end and not holds_features(self.explaining.pool):
                (folder / file).write_bytes(encoded(self._sheet(file, end, top)))
                shown |= {scored.index: file for scored in end[:MOST]}
            progress(done, len(ends))
        files = [shown.get(scored.index) for scored in self._scored]
        return Pictures(files, {self.explaining.score: top})

    def _sheet(self, file: str, end: Sequence[_Scored], top: float) -> NDArray[np.uint8]:
        does = "hurt" if file == HURTING_FILE else "help"
        caption = self.explaining.caption
        mappable = ScalarMappable(Normalize(-top, top), _COLOURS)
        tiles = [self._tile(i, scored, mappable) for i, scored in enumerate(end[:MOST], 1)]
        images = "image" if len(tiles) == 1 else f"{len(tiles)} images"
        title = f"The {images} that would {does} most"
        moving = "" if end[0].moving is None else "class that moves it most, "
        summary = (
            f"{len(end)} of {len(self._scored)} would {does}; below each: {caption}, prediction, "
            f"runner-up, {moving}entropy in nats"
        )
        scale = Scale(mappable, f"{caption}: red hurts, blue helps")
        return contact_sheet(tiles, title, summary, scale)

    def _tile(self, place: int, scored: _Scored, mappable: ScalarMappable) -> Tile:
        pool, names = self.explaining.pool, self.explaining.classes.names
        lines = [Line(f"#{place}", f"{scored.score:+.3g}", "bold")]
        lines += scored.prediction.lines(names)
        if scored.moving is not None:
            lines.append(Line(names[scored.moving[0]], f"{scored.moving[1]:+.2g}"))
        lines.append(Line("entropy", f"{scored.entropy:.2f}", "quiet"))
        red, green, blue, _ = mappable.to_rgba(np.array(scored.score), bytes=True)
        image = small(pool, pool.read(scored.index))
        return Tile(image, lines, (int(red), int(green), int(blue)))

    def _fields(self, scored: _Scored) -> dict[str, str]:
        return {
            "image": self.explaining.pool.paths[scored.index],
            self.explaining.score: repr(scored.score),
            **scored.prediction.fields(self.explaining.classes.names),
            "entropy": f"{scored.entropy:.6f}",
        }
