"""Views of an image, and where its boxes are in them."""

import hashlib
import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from segal.candidates.evidence import Evidence
from segal.models.wrapped import Model
from segal.system.machine import Precision, autocast
from segal.tasks.detection.evidence import Detections
from segal.tasks.detection.signals.elements import of_detections

ViewName = Literal["mirrored", "cut_out", "shrunk", "turned"]
VIEWS: tuple[ViewName, ...] = ("mirrored", "cut_out", "shrunk", "turned")

Matrix = NDArray[np.float64]
"""(2, 3) of an affine map of points (x, y) in pixels; edges of the image are whole numbers."""

Size = tuple[int, int]
"""(height, width)."""

_SHRUNK = 0.8
_ANGLE = math.radians(5)  # against the clock
_CUTS, _TRIES = 2, 50
_SIDE = (0.05, 0.2)  # of a cut, as a share of the image's
_COVERED = (0.1, 0.4)  # what the box that a cut covers most is covered by


def look(model: Model, image: Tensor, precision: Precision) -> Detections:
    """What a detector finds in one image.

    Args:
        model: It.
        image: (3, H, W), normalised.
        precision: Of the pass.
    """
    with autocast(image.device, precision):
        return of_detections(model(image[None])).detections[0]


def seeded(seed: int, path: str, name: str) -> np.random.Generator:
    """What is random in a further look at an image: it depends on no other image.

    Args:
        seed: Of the scan.
        path: Of the image.
        name: Of what is drawn.
    """
    key = "\0".join((str(seed), path, name)).encode("utf-8", "surrogateescape")
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:16], "little"))


def inputs_of(evidence: Evidence) -> Tensor:
    """(B, 3, H, W) what the network was given.

    Raises:
        ValueError: If it was not kept.
    """
    if not isinstance(evidence.inputs, Tensor):
        raise ValueError("evidence: expected the network's inputs, got none")
    return evidence.inputs


def view_size(name: ViewName, size: Size) -> Size:
    """Of a view of an image of some size; rounded down where it is shrunk, as CALD's code does."""
    if name != "shrunk":
        return size
    return max(1, int(size[0] * _SHRUNK)), max(1, int(size[1] * _SHRUNK))


def view_matrix(name: ViewName, size: Size) -> Matrix:
    """The map from points of an image to points of a view of it.

    Args:
        name: Of the view.
        size: Of the image. Turned, it is enlarged to what holds all of it, about its middle, and
            brought back to its size.
    """
    height, width = size
    if name == "mirrored":
        return np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0]])
    if name == "shrunk":
        down, right = view_size(name, size)
        return np.array([[right / width, 0.0, 0.0], [0.0, down / height, 0.0]])
    if name == "cut_out":
        return np.eye(2, 3)
    cos, sin = math.cos(_ANGLE), math.sin(_ANGLE)
    turn = np.array([[cos, sin], [-sin, cos]])
    middle = np.array([width, height]) / 2
    enlarged = np.array([width * cos + height * sin, height * cos + width * sin])
    scale = np.array([[width], [height]]) / enlarged[:, None]
    shift = enlarged / 2 - turn @ middle
    matrix: Matrix = scale * np.concatenate([turn, shift[:, None]], 1)
    return matrix


def inverse(matrix: Matrix) -> Matrix:
    """The map back."""
    linear = np.linalg.inv(matrix[:, :2]).astype(np.float64)
    return np.concatenate([linear, -linear @ matrix[:, 2:]], 1)


def carried(boxes: Tensor, matrix: Matrix, size: Size | None = None) -> Tensor:
    """The smallest upright boxes around boxes that are mapped.

    Args:
        boxes: (N, 4) x0, y0, x1, y1.
        matrix: The map.
        size: What they are clipped to; None to nothing.

    Returns:
        (N, 4) float64; of each its middle is the middle's image, where nothing is clipped.
    """
    by = torch.from_numpy(matrix).to(boxes.device)
    corners = boxes.double()[:, [[0, 1], [2, 1], [0, 3], [2, 3]]]
    points = corners @ by[:, :2].T + by[:, 2]
    around = torch.cat([points.amin(1), points.amax(1)], 1)
    if size is not None:
        around = clip_boxes_to_image(around, size)
    return around


def view_of(
    name: ViewName, image: Tensor, boxes: Tensor, black: Tensor, generator: np.random.Generator
) -> Tensor:
    """A view of an image.

    Args:
        name: Of the view.
        image: (C, H, W), normalised.
        boxes: (N, 4) that were found in it, for `cut_out`: a rectangle of 5 to 20 % of each side is
            made black where it covers between 10 and 40 % of the box that it covers most; two of
            these, as far as 50 tries find them.
        black: (C, 1, 1), the value of black once it is normalised; it fills also what turning
            uncovers.
        generator: Where `cut_out` cuts.

    Returns:
        (C, h, w) of `view_size`.
    """
    size = (image.shape[1], image.shape[2])
    if name == "mirrored":
        return image.flip(-1)
    if name == "cut_out":
        return _cut(image, boxes, black, generator)
    if name == "shrunk":
        # As PIL, which CALD's code resizes with: shrinking averages.
        smaller = view_size(name, size)
        return F.interpolate(image[None], smaller, mode="bilinear", antialias=True)[0]
    back = inverse(view_matrix(name, size))
    # To the coordinates of `grid_sample`, in which the image reaches from -1 to 1.
    half = np.array([size[1], size[0]]) / 2
    theta = np.concatenate(
        [
            back[:, :2] * half / half[:, None],
            ((back[:, :2] @ half + back[:, 2]) / half - 1)[:, None],
        ],
        1,
    )
    grid = F.affine_grid(
        torch.from_numpy(theta)[None].to(image), [1, *image.shape], align_corners=False
    )
    return F.grid_sample((image - black)[None], grid, align_corners=False)[0] + black


def _cut(image: Tensor, boxes: Tensor, black: Tensor, generator: np.random.Generator) -> Tensor:
    cut, done = image.clone(), 0
    corners = boxes.double().cpu().numpy()
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    sides = np.array(image.shape[:0:-1], np.float64)
    for _ in range(_TRIES):
        wanted = generator.uniform(*_SIDE, 2) * sides
        near = generator.uniform(0, sides - wanted)
        x0, y0, x1, y1 = np.concatenate([near, near + wanted]).astype(int)
        shared = np.minimum(corners[:, 2:], (x1, y1)) - np.maximum(corners[:, :2], (x0, y0))
        covered = shared.clip(0).prod(1)[area > 0] / area[area > 0]
        if not _COVERED[0] <= covered.max(initial=0.0) <= _COVERED[1]:
            continue
        cut[:, y0:y1, x0:x1] = black
        done += 1
        if done == _CUTS:
            break
    return cut
