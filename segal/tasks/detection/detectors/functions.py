"""Any detector as a function, or as a network of the user's own that answers in the same form.

The form: a list with a dictionary for each image of

| key | is |
|---|---|
| `boxes` | (N, 4) x0, y0, x1, y1 in pixels of the image, the best score first |
| `probabilities` | (N, C) of all classes without a background, each in [0, 1] |
| `classes` | (N,) the class that each box was found for; without it the likeliest |
| `scores` | (N,) what boxes are ranked by; without it that class's probability |
| `features` | (N, D), if it can: what the class branch knows of each box |

as tensors or arrays. Probabilities may be of a softmax without its background, or of sigmoids.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segal.errors import SegalError, raise_all
from segal.models.callables import FunctionNetwork
from segal.models.noise import NoHeadError
from segal.models.outputs import shown
from segal.models.wrapped import FEATURES
from segal.tasks.detection.detectors.base import RAW, Detector, Found, Target
from segal.tasks.detection.evidence import Detections

Detect = Callable[[Tensor], object]
"""From a batch of images (B, 3, H, W) to a list of B dictionaries: see the module."""

_KEYS = ("boxes", "probabilities", "classes", "scores", "features")
_OUTSIDE = 1.0  # pixels: what rounding in a resize may come to
_WHERE = "see docs/networks.md for functions around other packages' detectors"


class CallableDetector(FunctionNetwork):
    """A function as a detector without parameters.

    Args:
        detect: It is given one image at a time, (1, 3, H, W) float32, without gradients: what it
            does with a batch must not change what it says of an image.
    """

    def __init__(self, detect: Detect) -> None:
        super().__init__()
        self._detect = detect
        # Which tells where the images are to be.
        self.register_buffer("place", torch.zeros(()), persistent=False)

    def forward(self, images: Tensor) -> object:
        """What the function returns."""
        with torch.no_grad():
            return self._detect(images)

    def look(self, images: Tensor) -> tuple[int, str]:
        """See `FunctionNetwork.look`; the second side of `probabilities` tells the classes."""
        found = checked(self(images[:1]), images[0], None)
        if not len(found):
            return found.probabilities.shape[1], ""
        digest = hashlib.sha256()
        for values in (found.boxes, found.probabilities, found.classes, found.scores):
            digest.update(repr(tuple(values.shape)).encode())
            digest.update(values.cpu().numpy().tobytes())
        return found.probabilities.shape[1], digest.hexdigest()


class FunctionDetector(Detector):
    """See the module; `source` are the boxes' own numbers, and there are no raw outputs or maps."""

    def detect(self, image: Tensor, catch: Collection[str]) -> Found:
        """See `Detector.detect`.

        Raises:
            NoHeadError: If features or raw outputs are asked for and there are none.
            SegalError: If what is returned is not of the form.
        """
        if RAW in catch:
            raise NoHeadError(
                f"{self.name}: no raw outputs",
                expected="a detector that segal can look into, for what it says before NMS",
                got="a function, or a network of your own, that returns boxes",
                remedy="name a detector of torchvision or transformers, or use another strategy",
            )
        found = checked(self.network(image[None]), image, self.classes, self.name)
        if FEATURES in catch and found.features is None:
            raise NoHeadError(
                f"{self.name}: gives no features",
                expected="features (N, D) in what it returns, beside boxes and probabilities",
                got="none",
                remedy="return them as `features`, or use a strategy that needs none",
            )
        return Found(found)

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """See `Detector.losses`: those of the network's own method `losses`.

        Raises:
            SegalError: If it has none.
        """
        losses: Any = getattr(self.network, "losses", None)
        if losses is None:
            raise SegalError(
                f"{self.name}: cannot be trained",
                expected="a detector of torchvision or transformers, or a network of your own with "
                "a method losses(images, targets) that returns scalars by name",
                got=type(self.network).__name__,
                remedy="train it outside, or name one of these as --arch",
            )
        return dict(losses(images, targets))

    @property
    def name(self) -> str:
        """What messages call it."""
        function = isinstance(self.network, CallableDetector)
        return "detect" if function else type(self.network).__name__


def checked(output: object, image: Tensor, classes: int | None, name: str = "detect") -> Detections:
    """The detections in what a function returns for one image.

    Args:
        output: What it returned.
        image: (3, H, W), for its size, its place and its dtype.
        classes: C; None takes what comes.
        name: Of the function, for messages.

    Raises:
        SegalError: With all that is wrong.
    """
    one = output[0] if isinstance(output, list | tuple) and len(output) == 1 else None
    if not isinstance(one, Mapping) or not {"boxes", "probabilities"} <= set(one):
        raise SegalError(
            f"{name}: no boxes in what it returns",
            expected="a list with a dictionary for each image, with boxes (N, 4) and "
            "probabilities (N, C)",
            got=shown(output if one is None else one),
            remedy=_WHERE,
        )
    values = {key: _tensor(name, key, one[key], image) for key in _KEYS if one.get(key) is not None}
    boxes, probabilities = values["boxes"], values["probabilities"]
    shapes = {
        "boxes": (len(boxes), 4),
        "probabilities": (len(boxes), classes or max(1, probabilities.shape[-1])),
        "classes": (len(boxes),),
        "scores": (len(boxes),),
        "features": (len(boxes), values["features"].shape[-1] if "features" in values else 0),
    }
    raise_all(
        [
            SegalError(
                f"{name}: {key} of another shape",
                expected=f"{shapes[key]}: N boxes"
                + (f", {classes} classes" * (key == "probabilities" and classes is not None)),
                got=str(tuple(value.shape)),
                remedy=_WHERE,
            )
            for key, value in values.items()
            if tuple(value.shape) != shapes[key]
        ]
    )
    found = _filled(values)
    height, width = image.shape[-2:]
    raise_all(_mistakes(found, set(values), height, width, name))
    limits = found.boxes.new_tensor([width, height, width, height])
    return Detections(
        found.boxes.clamp(min=0).minimum(limits),
        found.probabilities,
        found.classes,
        found.scores,
        found.features,
        found.source,
    )


def _tensor(name: str, key: str, value: object, image: Tensor) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor) or value.ndim == 0 or value.is_complex():
        raise SegalError(
            f"{name}: {key} cannot be used",
            expected="a tensor, or an array of NumPy",
            got=shown(value),
            remedy=_WHERE,
        )
    if key == "classes":
        whole = value.long()
        if value.is_floating_point() and bool((whole != value).any()):
            raise SegalError(
                f"{name}: classes that are no whole numbers",
                expected="the number of each box's class, from 0",
                got=str(value[whole != value][0].item()),
                remedy=_WHERE,
            )
        return whole.to(image.device)
    return value.detach().to(image.device, torch.float32).contiguous()


def _filled(values: Mapping[str, Tensor]) -> Detections:
    boxes, probabilities = values["boxes"], values["probabilities"]
    classes = values.get("classes")
    if classes is None:
        classes = probabilities.argmax(1)
    scores = values.get("scores")
    if scores is None:
        inside = classes.clamp(0, probabilities.shape[1] - 1)
        scores = probabilities.gather(1, inside[:, None])[:, 0]
    source = torch.arange(len(boxes), device=boxes.device)
    return Detections(boxes, probabilities, classes, scores, values.get("features"), source)


def _mistakes(
    found: Detections, given: set[str], height: int, width: int, name: str
) -> list[SegalError]:
    """What is wrong with the numbers of boxes; what was filled in is not wrong by itself."""
    boxes, probabilities = found.boxes, found.probabilities
    limits = boxes.new_tensor([width, height, width, height])
    numbers = {key: getattr(found, key) for key in _KEYS if key in given - {"classes"}}
    mistakes = [
        SegalError(
            f"{name}: {key} that are not finite",
            expected="finite numbers",
            got=f"{int((~values.isfinite()).sum())} NaN or infinite values",
            remedy="look for a division by zero or a diverged training",
        )
        for key, values in numbers.items()
        if not bool(values.isfinite().all())
    ]
    if mistakes:
        return mistakes

    def example(rows: Tensor, values: Tensor) -> str:
        first = int(torch.where(rows)[0][0])
        listed = ", ".join(f"{x:.6g}" for x in values[first].flatten()[:8].tolist())
        return f"{int(rows.sum())} of {len(rows)} boxes, the first box {first}: {listed}"

    count = probabilities.shape[1]
    outside = (probabilities < 0) | (probabilities > 1)
    later = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    wrong_class = (found.classes < 0) | (found.classes >= count)
    if "scores" in given or not bool(outside.any() | wrong_class.any()):
        later[1:] = found.scores[1:] > found.scores[:-1]
    rules = (
        (
            outside.any(1),
            probabilities,
            "probabilities that are not normalised",
            "numbers in [0, 1]",
            "return probabilities, of a softmax (without its background) or of sigmoids, not "
            "logits or per cent",
        ),
        (
            ~outside.any(1) & (probabilities.sum(1) == 0),
            probabilities,
            "probabilities that are all 0",
            "a class that is possible",
            "return the probabilities of all classes, also of those below a threshold",
        ),
        (
            wrong_class,
            found.classes,
            "classes that there are not",
            f"numbers from 0 to {count - 1}",
            "leave a background out, and number the classes from 0",
        ),
        (
            ((found.scores < 0) | (found.scores > 1)) & ("scores" in given),
            found.scores,
            "scores outside 0 to 1",
            "numbers in [0, 1]",
            "return what boxes are ranked by as a probability",
        ),
        (
            later,
            found.scores,
            "boxes that are not sorted",
            "the highest score first",
            "bring all parts into the order of scores.argsort(descending=True)",
        ),
        (
            (boxes[:, 2:] <= boxes[:, :2]).any(1),
            boxes,
            "boxes without area",
            "x0, y0, x1, y1 with x0 < x1 and y0 < y1",
            "return corners, not a centre or a width and height, and leave empty boxes out",
        ),
        (
            ((boxes < -_OUTSIDE) | (boxes > limits + _OUTSIDE)).any(1),
            boxes,
            "boxes outside the image",
            f"corners in pixels of the image, 0 to {width} and 0 to {height}",
            "undo the detector's own resize and padding, and clip boxes to the image",
        ),
    )
    return [
        SegalError(f"{name}: {what}", expected=wanted, got=example(rows, values), remedy=remedy)
        for rows, values, what, wanted, remedy in rules
        if bool(rows.any())
    ]
