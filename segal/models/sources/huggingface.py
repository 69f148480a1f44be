"""Networks of Hugging Face's transformers, from local files, as `hf:FOLDER`."""

import importlib
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from segal.errors import SegalError
from segal.models.sources.base import (
    USUAL_MULTIPLE,
    Named,
    Options,
    Sides,
    check_answers,
    check_options,
)
from segal.models.sources.huggingface_detection import (
    DETR,
    SIZE,
    THRESHOLD,
    DetrNetwork,
    take_options,
)
from segal.models.sources.huggingface_files import (
    PREFIX,
    check_config,
    find_folder,
    input_constants,
    read_json,
)
from segal.models.spec import DEFAULT_TASK, Answered, ModelSpec, answers_of
from segal.system.files import read_error

SEMANTIC = {
    "beit": "BeitForSemanticSegmentation",
    "data2vec-vision": "Data2VecVisionForSemanticSegmentation",
    "dpt": "DPTForSemanticSegmentation",
    "mobilenet_v2": "MobileNetV2ForSemanticSegmentation",
    "mobilevit": "MobileViTForSemanticSegmentation",
    "mobilevitv2": "MobileViTV2ForSemanticSegmentation",
    "segformer": "SegformerForSemanticSegmentation",
    "upernet": "UperNetForSemanticSegmentation",
}
"""Classes whose outputs are logits, by the `model_type` of their configuration."""

UNIVERSAL = {
    "eomt": "EomtForUniversalSegmentation",
    "mask2former": "Mask2FormerForUniversalSegmentation",
    "maskformer": "MaskFormerForInstanceSegmentation",
}
"""Classes whose outputs are masks of queries, with the classes of each."""

_CLASSES = SEMANTIC | UNIVERSAL | DETR
_ANSWERING: Mapping[Answered, tuple[Mapping[str, str], str]] = {
    "pixels": (SEMANTIC | UNIVERSAL, "semantic segmentation"),
    "objects": (DETR, "object detection"),
}
_FLIP = "flip_channels"
_TINY = 1e-30  # below the probability that any class has


class HuggingFaceNetwork(nn.Module):
    """A model of transformers as a function from images to logits.

    For semantic segmentation these are its own. Where it answers with masks of queries, a class's
    logit is the log of the sum over queries of the class's probability (without "no object") times
    the mask's: its library's `post_process_semantic_segmentation` takes the largest of these sums.

    Args:
        model: Of one of the classes above.
        flip_channels: Whether its weights expect B, G, R.
    """

    def __init__(self, model: nn.Module, *, flip_channels: bool = False) -> None:
        super().__init__()
        self.model = model
        self.flip_channels = flip_channels
        config: Any = model.config
        self._universal = config.model_type in UNIVERSAL
        # Where the library looks at masks of another size than the model's own, so do we.
        self._mask_side: int | None = {"mask2former": 384, "eomt": _side(config)}.get(
            config.model_type
        )
        takes = inspect.signature(model.forward).parameters
        self._arguments = (
            {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
        )

        # Its neck takes the patches of an image for a square's unless it is told their grid.
        self._patch: int | None = config.patch_size if config.model_type == "dpt" else None
        neck: Any = getattr(model, "neck", None)
        if self._patch is not None:
            neck.register_forward_pre_hook(_tell_grid, with_kwargs=True)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) logits of (B, 3, H, W) images, normalised."""
        if self._patch is not None:
            neck: Any = self.model.neck
            neck.grid = [side // self._patch for side in images.shape[-2:]]
        inputs = images.flip(1) if self.flip_channels else images
        outputs = self.model(pixel_values=inputs, **self._arguments)
        size = images.shape[-2:]
        if not self._universal:
            return _spread(outputs.logits, size)
        masks = outputs.masks_queries_logits.float()
        if self._mask_side is not None:
            masks = _spread(masks, (self._mask_side, self._mask_side))
        classes = outputs.class_queries_logits.float().softmax(-1)[..., :-1]
        sums = (classes.transpose(1, 2) @ masks.sigmoid().flatten(2)).unflatten(2, masks.shape[-2:])
        return _spread(sums, size).clamp_min(_TINY).log()


def _tell_grid(neck: Any, inputs: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    height, width = neck.grid
    return inputs, {**named, "patch_height": height, "patch_width": width}


def _spread(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


class _HuggingFace:
    """`hf:FOLDER` or a name that is in the local cache; `hf:MODEL_TYPE` with a configuration."""

    trusted = True

    def usual_encoder(self, architecture: str, task: str = DEFAULT_TASK) -> str:
        """None: the name says all of the network."""
        return ""

    def resolve(self, architecture: str, encoder: str, options: Options, task: str) -> Named:
        """Reads and checks the configuration; nothing is downloaded."""
        asked = answers_of(task).of
        if asked not in _ANSWERING:
            check_answers(architecture, task, "pixels")
        require()
        processor: Mapping[str, Any] = {}
        given = dict(options)
        if "config" in given:
            kind = architecture.removeprefix(PREFIX)
            config = check_config(given.pop("config"), *_ANSWERING[asked], "its configuration")
            flip = False
            names: tuple[str, ...] = ()
            constants = input_constants({}, config["model_type"])[0]
            if config["model_type"] != kind:
                raise SegalError(
                    f"{architecture}: its configuration is of another network",
                    expected=kind,
                    got=config["model_type"],
                    remedy="give --arch hf:FOLDER",
                )
        else:
            folder = find_folder(architecture)
            raw = read_json(folder / "config.json")
            config = check_config(raw, *_ANSWERING[asked], str(folder / "config.json"))
            names, processor = label_names(raw), processor_of(folder)
            constants, flip = input_constants(processor, config["model_type"])
        flip = bool(given.pop(_FLIP, flip))
        own = take_options(given, config, processor) if asked == "objects" else {}
        known = set(_configuration(config, 2).to_dict())
        check_options(given, known, {}, f"{PREFIX}{config['model_type']}")
        stored: dict[str, Any] = {"config": config | given, **own}
        if flip:
            stored[_FLIP] = True
        return Named(
            PREFIX + config["model_type"], "", constants, options=stored, class_names=names
        )

    def build(self, spec: ModelSpec) -> nn.Module:
        """Builds it from its configuration, with random weights."""
        with offline():
            model = model_class(spec)(configuration(spec))
        return _network(model, spec)

    def sides(self, network: nn.Module, spec: ModelSpec) -> Sides:
        """Some of them are bound to the size that they were trained at; detectors resize."""
        if spec.answers.of == "objects":
            return Sides([1])
        config = configuration(spec)
        side, patch = _side(config), getattr(config, "patch_size", None)
        further = [patch * factor for factor in (1, 2, 4)] if isinstance(patch, int) else []
        fixed = [side] if side else []
        return Sides([USUAL_MULTIPLE, *further, *fixed], side)


SOURCE = _HuggingFace()


def require() -> Any:
    """The library.

    Raises:
        SegalError: If it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise SegalError(
            "networks of Hugging Face need the package transformers",
            expected="transformers",
            got=str(error),
            remedy="pip install 'segal-regions[hf]'",
        ) from error


@contextmanager
def offline() -> Iterator[None]:
    """Nothing is downloaded, whatever a configuration names."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def model_class(spec: ModelSpec) -> Any:
    """The class of a network, from the allowed ones."""
    return getattr(require(), _CLASSES[spec.architecture.removeprefix(PREFIX)])


def configuration(spec: ModelSpec) -> Any:
    """The configuration of a network, with its number of classes and of channels."""
    config = _configuration(spec.options["config"], spec.num_classes)
    config.id2label = dict(enumerate(spec.class_names))
    config.label2id = {name: i for i, name in enumerate(spec.class_names)}
    if spec.channels != 3 or hasattr(config, "num_channels"):
        config.num_channels = spec.channels
    return config


def _configuration(values: Mapping[str, Any], num_classes: int) -> Any:
    transformers = require()
    kind = transformers.CONFIG_MAPPING[values["model_type"]]
    try:
        with offline():
            config = kind.from_dict({**json.loads(json.dumps(values)), "num_labels": num_classes})
    except Exception as error:  # whatever its constructor raises for values that make no sense
        raise SegalError(
            f"{PREFIX}{values['model_type']}: its configuration cannot be used",
            expected=f"the configuration of a {values['model_type']}",
            got=f"{type(error).__name__}: {error}".split("\n")[0][:300],
            remedy="save the network again with save_pretrained, or check model.options",
        ) from error
    for name in ("use_auxiliary_head", "use_pretrained_backbone"):
        if hasattr(config, name):
            setattr(config, name, False)  # not used to score images; never downloaded
    return config


def label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes, in the order of the logits; empty where they are not told.

    Raises:
        SegalError: If they are not numbered from 0.
    """
    labels = config.get("id2label")
    if not isinstance(labels, Mapping) or not labels:
        return ()
    try:
        by_number = {int(number): str(name) for number, name in labels.items()}
        if sorted(by_number) != list(range(len(by_number))):
            raise ValueError(f"{len(by_number)} labels that are not 0 to {len(by_number) - 1}")
    except (TypeError, ValueError) as error:
        raise SegalError(
            "config.json: its id2label cannot be used",
            expected="a name for each class, numbered from 0",
            got=str(error)[:200],
            remedy="mend id2label, or leave it out and give --num-classes",
        ) from error
    return tuple(by_number[number] for number in range(len(by_number)))


def processor_of(folder: Path) -> Mapping[str, Any]:
    """What a folder says of how images are fed; empty where it says nothing."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = folder / name
        if file.is_file():
            values = read_json(file)
            inner = values.get("image_processor")
            return inner if isinstance(inner, Mapping) else values
    return {}


def load_pretrained(
    spec: ModelSpec, folder: Path, *, new_head: bool
) -> tuple[nn.Module, list[str]]:
    """The network with the weights of a folder, as its own library loads them.

    Args:
        spec: Of that folder, or with other classes.
        folder: Holds `model.safetensors`, its shards, or `pytorch_model.bin`.
        new_head: Whether layers that the folder has no fitting weights for may stay random.

    Returns:
        The network, and what the user should be told.

    Raises:
        SegalError: If the weights cannot be read, or do not fit.
    """
    try:
        with offline():
            model, found = model_class(spec).from_pretrained(
                folder,
                config=configuration(spec),
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except OSError as error:
        raise read_error(folder, error, "a folder of save_pretrained") from error
    except Exception as error:  # whatever the library raises for files that are damaged
        raise SegalError(
            f"{folder}: its weights cannot be loaded",
            expected="weights as save_pretrained writes them",
            got=f"{type(error).__name__}: {error}".split("\n")[0][:300],
            remedy="save the network again with save_pretrained",
        ) from error
    reshaped = [
        one[0] if isinstance(one, tuple | list) else one for one in found["mismatched_keys"]
    ]
    random = sorted({*found["missing_keys"], *map(str, reshaped)})
    if random and not new_head:
        raise SegalError(
            f"{folder}: weights of another network",
            expected=f"weights for all of {spec.title} with {spec.num_classes} classes",
            got=f"none that fit for {len(random)} tensors ({', '.join(random[:3])}"
            f"{', ...' if len(random) > 3 else ''})",
            remedy="train it first with segal train --arch hf:FOLDER, or give the folder of a "
            "network that was trained for these classes",
        )
    notes = []
    if random:
        notes.append(
            f"{folder}: {len(random)} tensors have no fitting weights there and start at random: "
            f"{', '.join(random[:4])}{', ...' if len(random) > 4 else ''}."
        )
    return _network(model, spec), notes


def _network(model: nn.Module, spec: ModelSpec) -> nn.Module:
    if spec.answers.of == "pixels":
        return HuggingFaceNetwork(model, flip_channels=bool(spec.options.get(_FLIP)))
    return DetrNetwork(model, spec.options[SIZE], spec.options[THRESHOLD])


def _side(config: Any) -> int | None:
    size = getattr(config, "image_size", None)
    if isinstance(size, list | tuple):
        size = max(size) if size else None
    return size if isinstance(size, int) and size > 0 else None
