"""Draws what was picked: contact sheets of the images, with what the network says of each."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segal.candidates.selection import Selected
from segal.data.pool import ImagePool
from segal.data.transforms import stack_images
from segal.pictures.contact_sheet import Line, Tile, contact_sheet, encoded, paged, thumbnail
from segal.pictures.overlays import shown_bands
from segal.system.files import replacing
from segal.system.machine import autocast
from segal.tasks.classification.pools import ArrayPool
from segal.tasks.classification.predicted import Prediction, predictions
from segal.tasks.drawing import Drawn, Look, PictureWords

PICKED_FILE = "picked.csv"
SHEET_WORDS = PictureWords(
    shown="Picked images in the order of picking; below each its rank and score, what the network "
    "predicted, the runner-up, and what the image is, bold where the network was wrong.",
    instead="Contact sheet of the images that {arm} picked after round {round}: {image}",
)
_BATCH, _BATCH_PIXELS = 32, 2**22


@dataclass(frozen=True)
class _Picked:
    """An image to show.

    Attributes:
        rank: Its best.
        tile: The image on a sheet; None of features.
        fields: What is said of it in the table, by column.
    """

    rank: int
    tile: Tile | None
    fields: dict[str, str]


def draw_contact_sheets(
    folder: Path,
    selected: Sequence[Selected],
    count: int,
    drawn: Drawn,
    progress: Callable[[int, int], None],
) -> None:
    """Writes sheets of the `count` images with the best ranks, and `PICKED_FILE`, a table of them.

    Of features, which cannot be looked at, there is the table alone.
    """
    picks: dict[str, list[Selected]] = {}
    for s in selected:
        picks.setdefault(s.image, []).append(s)
    shown = [picks[image] for image in list(picks)[:count]]
    digits = max([4, *(len(str(picks[0].rank)) for picks in shown)])
    rows = []
    with replacing(folder) as temporary:
        temporary.mkdir()
        for page in paged(_picked(shown, drawn, progress)):
            rows += [picked.fields for picked in page]
            tiles = [picked.tile for picked in page if picked.tile is not None]
            if tiles:
                first, last = page[0].rank, page[-1].rank
                title = f"Picked images, ranks {first} to {last}"
                data = encoded(contact_sheet(tiles, title, _summary(drawn)))
                (temporary / f"{first:0{digits}d}_ranks-{first}-to-{last}.png").write_bytes(data)
        if rows:
            (temporary / PICKED_FILE).write_bytes(table(rows))


def _summary(drawn: Drawn) -> str:
    parts = ["below each: rank and score"]
    if drawn.model is not None:
        parts.append("prediction, runner-up")
        if drawn.label is not None:
            parts.append("true class, bold where the prediction is wrong")
    return ", ".join(parts)


def _picked(
    shown: Sequence[Sequence[Selected]], drawn: Drawn, progress: Callable[[int, int], None]
) -> Iterator[_Picked]:
    """Images one after another, of which no more than a batch is held."""
    positions = {path: i for i, path in enumerate(drawn.pool.paths)}
    indices = [positions[picks[0].image] for picks in shown]
    names = () if drawn.model is None else drawn.model.spec.class_names
    looked_at = zip(shown, indices, _looked_at(drawn, indices), strict=True)
    for done, (picks, index, (pixels, prediction)) in enumerate(looked_at, 1):
        best = picks[0]
        lines = [Line(f"#{best.rank}", f"{best.score:.4g}", "bold")]
        fields = {"rank": str(best.rank), "image": best.image, "score": repr(float(best.score))}
        if prediction is not None:
            lines += prediction.lines(names)
            fields |= prediction.fields(names)
            asked = sorted({y for s in picks for y in range(s.box[1], s.box[3])})
            if len(asked) < drawn.pool.size(index)[0]:
                lines.append(Line("asked: " + ", ".join(names[y] for y in asked)))
            if drawn.label is not None:
                label = drawn.label(best.image)
                fields["true"] = "|".join(names[c] for c in prediction.true(label))
                lines += prediction.truth(label, names)
        tile = None if holds_features(drawn.pool) else Tile(small(drawn.pool, pixels), lines)
        yield _Picked(best.rank, tile, fields)
        progress(done, len(shown))


def _looked_at(
    drawn: Drawn, indices: Sequence[int]
) -> Iterator[tuple[NDArray[Any], Prediction | None]]:
    """Images as they are read, and what the network says of them."""
    for batch in _batches(drawn.pool, indices):
        images = [drawn.pool.read(index) for index in batch]
        yield from zip(images, _predicted(drawn, images), strict=True)


def _batches(pool: ImagePool, indices: Sequence[int]) -> Iterator[list[int]]:
    """Runs of neighbours that are of one size."""
    batch: list[int] = []
    for index in indices:
        height, width = pool.shape(index)
        most = min(_BATCH, max(1, _BATCH_PIXELS // (height * width)))
        if batch and (len(batch) >= most or pool.shape(batch[0]) != (height, width)):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.inference_mode()
def _predicted(drawn: Drawn, images: Sequence[NDArray[Any]]) -> Sequence[Prediction | None]:
    model = drawn.model
    if model is None:
        return [None] * len(images)
    with autocast(model.device, drawn.precision):
        logits = model(model.normalise(stack_images(images).to(model.device))).logits
    return predictions(logits, model.spec.num_classes)


def look_at_image(drawn: Drawn, image: int) -> Look:
    """An image, and the network's likeliest classes; see `Task.look`."""
    pixels = drawn.pool.read(image)
    prediction, said = _predicted(drawn, [pixels])[0], list[str]()
    if prediction is not None and drawn.model is not None:
        lines = prediction.lines(drawn.model.spec.class_names)
        said = [f"{line.left} {line.right}".rstrip() for line in lines]
    if holds_features(drawn.pool):
        return Look(None, said=said)
    return Look(shown_bands(pixels, stretched=drawn.pool.reading.bands is not None), said=said)


def holds_features(pool: ImagePool) -> bool:
    """Whether a pool is of features, which cannot be looked at."""
    images = pool.pixels()
    return isinstance(images, ArrayPool) and images.holds_features


def small(pool: ImagePool, pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """An image of a pool, as a contact sheet shows it."""
    return thumbnail(shown_bands(pixels, stretched=pool.reading.bands is not None))


def table(rows: Sequence[Mapping[str, str]]) -> bytes:
    """Rows of the same columns, as CSV in UTF-8."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
