"""Pictures of explained images: each beside what is predicted, its entropy, and the score."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from segal.functional.labels import predicted_classes
from segal.pictures.explained import Legend, Panels, draw_explanation
from segal.pictures.overlays import shown_bands
from segal.tasks.explaining import Explainer, Explaining, Pictures, ScoredImage

_TOP_SHARE = 0.01  # of the pixels may lie beyond a colour scale
_SAMPLE = 4096  # values of an image that the common colour scale is taken from
_NO_PIXEL_MOVES = 1e-12  # end of the scale of maps that are 0 everywhere


class PanelsExplainer(Explainer):
    """A picture of each image; what it shows is kept on disk until the colour scales are known."""

    def __init__(self, explaining: Explaining) -> None:
        super().__init__(explaining)
        self._words: list[tuple[str, str, str]] = []
        self._samples: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []

    def add(self, image: ScoredImage) -> None:
        """Keeps its panels."""
        pool = self.explaining.pool
        pixels = pool.read(image.index)
        shown = shown_bands(pixels, stretched=pool.reading.bands is not None)
        prediction = predicted_classes(image.logits, 0).to(torch.uint8).cpu().numpy()
        panels = Panels.of(shown, prediction, image.entropy, image.scores)
        np.savez(self._kept(len(self._words)), **vars(panels))
        step = -(-panels.score.size // _SAMPLE)
        flat = panels.entropy.ravel()[::step], panels.score.ravel()[::step]
        self._samples.append((flat[0].copy(), flat[1].copy()))
        summary = (
            f"{image.hurting:.1%} of the pixels would hurt; "
            f"mean {self.explaining.caption} {image.mean:+.3g}, "
            f"mean entropy {image.mean_entropy:.3f}"
        )
        self._words.append((f"{image.stem}.png", pool.paths[image.index], summary))

    def draw(self, folder: Path, progress: Callable[[int, int], None]) -> Pictures:
        """Draws every image."""
        legend = self._legend()
        for number, (file, title, summary) in enumerate(self._words):
            kept = self._kept(number)
            with np.load(kept) as arrays:
                panels = Panels(**arrays)
            kept.unlink()
            drawn = draw_explanation(panels, legend, title, summary)
            _, data = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
            (folder / file).write_bytes(data.tobytes())
            progress(number + 1, len(self._words))
        scales = {"entropy": legend.entropy_top, self.explaining.score: legend.score_top}
        return Pictures([file for file, _, _ in self._words], scales)

    def _kept(self, number: int) -> Path:
        return self.explaining.scratch / f"{number}.npz"

    def _legend(self) -> Legend:
        """The colour scales that all pictures share."""
        entropy, score = (np.concatenate(parts) for parts in zip(*self._samples, strict=True))
        return Legend(
            names=self.explaining.classes.names,
            palette=self.explaining.classes.palette,
            caption=f"{self.explaining.caption}: red hurts, blue helps",
            entropy_top=max(float(np.quantile(entropy, 1 - _TOP_SHARE)), _NO_PIXEL_MOVES),
            score_top=max(float(np.quantile(np.abs(score), 1 - _TOP_SHARE)), _NO_PIXEL_MOVES),
        )
