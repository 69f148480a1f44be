"""Pictures of the rounds' picks, made small enough for a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segal.data.images import inspect_image, read_image
from segal.errors import SegalError
from segal.models.spec import DEFAULT_TASK
from segal.reporting.arms import Arm, seed_of
from segal.runs.history import OVERLAYS_FOLDER
from segal.tasks import find_task
from segal.tasks.drawing import PictureWords

_WIDTH, _QUALITY = 960, 82
_FEW_ARMS = 4  # of more, one picture a round is shown, and else two
MOST_BYTES = 4_500_000
"""Of all overlays of a page; base64 makes them a third larger."""


@dataclass(frozen=True)
class Overlay:
    """A picture of what was picked.

    Attributes:
        arm: Name of its arm.
        seed: Of its run.
        round: After which it was picked.
        image: What it shows: the name of an image without suffix, or which ranks.
        jpeg: The picture.
        width: In pixels.
        height: In pixels.
    """

    arm: str
    seed: int
    round: int
    image: str
    jpeg: bytes
    width: int
    height: int


def overlays(arms: Sequence[Arm]) -> tuple[list[Overlay], str]:
    """Overlays of the first and the last round that each arm picked in, at its lowest seed.

    Returns:
        The pictures by arm and round, and a note on what was left out, or no text.
    """
    chosen: list[tuple[int, Arm, int, Path]] = []
    most = 2 if len(arms) <= _FEW_ARMS else 1
    for arm in arms:
        run = arm.runs[0]
        folders = [
            (r.number, files) for r in run.rounds if (files := _pictures(r.folder, run.folder))
        ]
        for number, files in dict([folders[0], folders[-1]]).items() if folders else ():
            chosen += [(place, arm, number, file) for place, file in enumerate(files[:most])]
    # Every arm's first picture comes before any arm's second.
    drawn: dict[tuple[str, int, str], Overlay] = {}
    spent = left_out = 0
    for _, arm, number, file in sorted(chosen, key=lambda c: c[0]):
        try:
            inspect_image(file)
            pixels = read_image(file)
        except SegalError:
            left_out += 1
            continue
        data, width, height = _shrunk(pixels)
        if spent + len(data) > MOST_BYTES:
            left_out += 1
            continue
        spent += len(data)
        image = file.stem.partition("_")[2] or file.stem
        drawn[arm.name, number, file.name] = Overlay(
            arm.name, seed_of(arm.runs[0]), number, image, data, width, height
        )
    ordered = [
        drawn[key]
        for _, arm, number, file in chosen
        if (key := (arm.name, number, file.name)) in drawn
    ]
    note = f"{left_out} more are left out, being unreadable or too large for a page."
    return ordered, note if left_out else ""


def words_of(arm: Arm) -> PictureWords:
    """How a page speaks of an arm's pictures; runs on one page have the same task."""
    task = str(arm.runs[0].configuration.get("task", DEFAULT_TASK))
    return find_task(task).picture_words


def _pictures(round_folder: Path, run: Path) -> list[Path]:
    """PNG files of a round's overlays, best rank first; links out of the run are not followed."""
    folder = round_folder / OVERLAYS_FOLDER
    try:
        files = sorted(folder.glob("*.png"))
    except OSError:
        return []
    root = run.resolve()
    return [f for f in files if f.is_file() and f.resolve().is_relative_to(root)]


def _shrunk(pixels: NDArray[Any]) -> tuple[bytes, int, int]:
    """JPEG, width and height."""
    rgb = pixels if pixels.dtype == np.uint8 else (pixels * 255).astype(np.uint8)
    height, width = rgb.shape[:2]
    factor = min(1.0, _WIDTH / width, _WIDTH / height)
    if factor < 1:
        width, height = max(1, round(width * factor)), max(1, round(height * factor))
        rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    settings = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), settings)
    return data.tobytes(), width, height
