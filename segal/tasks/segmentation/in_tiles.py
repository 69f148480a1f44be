"""Predictions of large images, tile by tile."""

from collections.abc import Iterator, Sequence
from typing import Unpack

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence
from segal.candidates.kept import Images
from segal.data.pool import ImagePool
from segal.functional.labels import predicted_classes
from segal.models.wrapped import Model
from segal.system.machine import autocast
from segal.tasks.options import PredictionOptions
from segal.tasks.tiles import Layout, TiledImage


def predicted_in_tiles(
    model: Model, pool: ImagePool, images: Sequence[int], **options: Unpack[PredictionOptions]
) -> Iterator[tuple[int, tuple[int, int], Tensor]]:
    """The predicted classes of large images, of blended logits.

    Args:
        model: The network; its mode (training or not) is the same afterwards.
        pool: The images.
        images: Which of them.
        **options: As `Task.outputs` takes them.

    Yields:
        Index of an image, the (top, left) place of a piece, and its classes (h, w) int64, on the
        device. The pieces of an image do not overlap and cover it.
    """
    device = torch.device(options.get("device", "cpu"))
    precision = options.get("precision", "fp32")
    was_training = model.training
    model.to(device).eval()

    def run(batch: Images, names: Sequence[str]) -> Evidence:
        assert isinstance(batch, Tensor)
        with torch.inference_mode(), autocast(device, precision):
            evidence: Evidence = model(model.normalise(batch.to(device)))
        evidence.images = tuple(names)
        return evidence

    try:
        progress = options.get("progress")
        for done, index in enumerate(images, start=1):
            layout = Layout.of(pool.shape(index), pool.reading.large, model.spec)
            tiled = TiledImage(pool.pixels(), index, layout, run)
            for row, pieces in tiled.pieces():
                for piece in pieces:
                    classes = predicted_classes(piece.evidence.logits[0], 0)
                    yield index, (row.first, piece.column.first), classes
            if progress is not None:
                progress(done, len(images))
    finally:
        model.train(was_training)
