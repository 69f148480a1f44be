"""Checkpoints: safetensors with what it takes to build the network again in their metadata."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from segal.errors import SegalError
from segal.models.build import build_model, canonical_name, check_encoder, make_spec
from segal.models.folders import load_folder, read_folder
from segal.models.sources import source_of
from segal.models.sources.smp import present_name
from segal.models.spec import DEFAULT_TASK, Channels, ModelSpec
from segal.models.weight_files import StoredTensors, read_metadata, read_tensors
from segal.models.weights import load_weights
from segal.models.wrapped import Model
from segal.system.files import replacing
from segal.system.tensor_files import save_tensors

_METADATA_KEY = "segal"
_ADDED: Mapping[str, Callable[[Model], nn.Module]] = {
    "loss_prediction": lambda model: model.add_loss_prediction(seed=0),
    "second_head": lambda model: model.add_second_head(seed=0),
}
"""What a training may have added to a network, and how it is added again."""


@dataclass(frozen=True)
class CheckpointOptions:
    """What a user says about a checkpoint; None leaves it to the checkpoint's own metadata.

    Attributes:
        architecture: As in `ModelSpec`.
        encoder: As in `ModelSpec`.
        num_classes: For a plain state_dict, whose classes have no names.
        mean: As in `ModelSpec`.
        std: As in `ModelSpec`.
        input_scale: As in `ModelSpec`.
        insert_dropout: As in `ModelSpec`.
        options: As in `ModelSpec`.
        state: Which of several sets of weights in a file, as in `load_weights`.
        task: What the network is to be asked, as in `ModelSpec`.
        input_side: As `make_spec` takes it.
        input_channels: Likewise.
    """

    architecture: str | None = None
    encoder: str | None = None
    num_classes: int | None = None
    mean: Channels | None = None
    std: Channels | None = None
    input_scale: float | None = None
    insert_dropout: float | None = None
    options: Mapping[str, Any] | None = None
    state: str | None = None
    task: str | None = None
    input_side: int | None = None
    input_channels: int | None = None


def weights_of(model: Model) -> dict[str, Tensor]:
    """What a checkpoint holds of a model: the tensors themselves, not copies.

    They have the network's own names; those of what a training added to it come after them and
    begin with `loss_prediction/` or `second_head/`.
    """
    weights: dict[str, Tensor] = dict(model.network.state_dict())
    for name in _ADDED:
        added = getattr(model, name)
        own = {} if added is None else added.state_dict()
        weights |= {_prefix(name) + key: value for key, value in own.items()}
    return weights


def _prefix(name: str) -> str:
    return f"{name}/"  # no submodule's name has a slash


def save_checkpoint(model: Model, path: Path, training: Mapping[str, object] | None = None) -> None:
    """Writes the model's weights, its specification and how it was trained.

    Args:
        model: The network.
        path: Ends in `.safetensors`.
        training: Anything that JSON can hold, for people to read.

    Raises:
        SegalError: If the file cannot be written.
    """
    metadata = json.dumps({"spec": model.spec.as_dict(), "training": dict(training or {})})
    state = {k: v.detach().cpu().contiguous() for k, v in weights_of(model).items()}
    with replacing(path) as temporary:
        save_tensors(state, temporary, {_METADATA_KEY: metadata})


def load_checkpoint(path: Path, options: CheckpointOptions | None = None) -> Model:
    """Builds the network of a checkpoint and loads its weights; it is left in `eval()` mode.

    Args:
        path: segal's own checkpoint, any file that holds the network's state_dict
            (`.safetensors`, `.pth`; see docs/checkpoints.md), or a folder that `save_pretrained` of
            smp or transformers wrote.
        options: What the file does not say; where both say something, they must agree, but for
            the normalisation, the input's scale and the inserted dropout, where the options win.

    Raises:
        SegalError: If the file is missing, damaged, of another network, or holds NaN.
    """
    options = options or CheckpointOptions()
    if path.is_dir():
        return load_from_folder(path, options)
    stored = read_tensors(path)
    spec = _resolve(path, read_spec(path), options)
    model = build_model(spec)
    added = {
        name: {
            key.removeprefix(_prefix(name)): stored.tensors.pop(key)
            for key in list(stored.tensors)
            if key.startswith(_prefix(name))
        }
        for name in _ADDED
    }
    model.notes += load_weights(model.network, stored, path, options.state, spec.num_classes)
    for name, tensors in added.items():
        if tensors:
            own = StoredTensors(tensors, dict.fromkeys(tensors, ""), {})
            load_weights(_ADDED[name](model), own, path)
    return model.eval()


def load_from_folder(
    folder: Path, options: CheckpointOptions, class_names: tuple[str, ...] = ()
) -> Model:
    """The network of a folder that `save_pretrained` wrote, in `eval()` mode.

    Args:
        folder: It.
        options: As for `load_checkpoint`.
        class_names: Classes to train for: those of a network of transformers may be others than the
            folder's, and its last layer then starts at random.

    Raises:
        SegalError: If there is no network, or it does not fit.
    """
    read = read_folder(folder, class_names, options.task or DEFAULT_TASK)
    spec = _resolve(folder, read, options)
    return load_folder(folder, spec, new_head=bool(class_names))


def read_spec(path: Path) -> ModelSpec | None:
    """The specification in a checkpoint's metadata; None for a plain state_dict.

    Raises:
        SegalError: If the file or its metadata is damaged.
    """
    metadata = read_metadata(path).get(_METADATA_KEY)
    if metadata is None:
        return None
    try:
        spec = TypeAdapter(ModelSpec).validate_python(json.loads(metadata)["spec"])
        # The file may come from anyone: names and numbers are checked as a user's are.
        return make_spec(
            spec.architecture,
            spec.encoder,
            spec.class_names,
            mean=spec.mean,
            std=spec.std,
            input_scale=spec.input_scale,
            insert_dropout=spec.insert_dropout,
            options=spec.options,
            stride=spec.stride,
            task=spec.task,
            framing=spec.framing,
            input_side=0 if spec.framing is None else None,
            input_channels=spec.input_channels,
        )
    except SegalError as error:
        raise SegalError(
            f"{path}: its metadata are wrong: {error.problem}",
            expected=error.expected,
            got=error.got,
            remedy="write the checkpoint again with segal train",
        ) from error
    except (ValidationError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SegalError(
            f"{path}: its metadata are damaged",
            expected="the specification that segal writes with its checkpoints",
            got=str(error).splitlines()[0],
            remedy="write the checkpoint again with segal train",
        ) from error


def read_training(path: Path) -> Mapping[str, object]:
    """What a checkpoint says of how it was trained, as `save_checkpoint` was given it.

    Args:
        path: A file that `load_checkpoint` takes. What it says is anyone's word.

    Returns:
        Plain values; nothing where it says nothing.

    Raises:
        SegalError: If the file is damaged.
    """
    if path.is_dir():
        return {}
    metadata = read_metadata(path).get(_METADATA_KEY)
    try:
        training = json.loads(metadata or "{}").get("training")
    except (ValueError, AttributeError, RecursionError):
        return {}
    return training if isinstance(training, dict) else {}


def _resolve(path: Path, stored: ModelSpec | None, options: CheckpointOptions) -> ModelSpec:
    if stored is None:
        if options.num_classes is None:
            raise SegalError(
                f"{path}: a plain state_dict, which does not say what network it belongs to",
                expected="--arch, --encoder and --num-classes",
                got="no --num-classes",
                remedy="add for example --arch DeepLabV3Plus --encoder resnet18 --num-classes 19",
            )
        architecture = options.architecture or "DeepLabV3Plus"
        check_encoder(architecture, options.encoder, options.task or DEFAULT_TASK)
        return make_spec(
            architecture,
            options.encoder or None,
            tuple(f"class {i}" for i in range(options.num_classes)),
            mean=options.mean,
            std=options.std,
            input_scale=options.input_scale or 1.0,
            insert_dropout=options.insert_dropout or 0.0,
            options=options.options,
            task=options.task or DEFAULT_TASK,
            input_side=options.input_side,
            input_channels=options.input_channels,
        )
    said = {
        "task": (stored.task, options.task),
        "architecture": (
            stored.architecture,
            options.architecture and canonical_name(options.architecture, stored.task),
        ),
        "encoder": (stored.encoder, options.encoder and present_name(options.encoder)),
        "number of classes": (stored.num_classes, options.num_classes),
    }
    for what, (in_file, given) in said.items():
        if given is not None and given != in_file:
            if what == "encoder":
                check_encoder(stored.architecture, options.encoder, stored.task)
            raise SegalError(
                f"{path}: a checkpoint of another {what}",
                expected=str(given),
                got=str(in_file),
                remedy=f"set task: {in_file}, or choose another checkpoint"
                if what == "task"
                else "leave the option out, or choose the checkpoint that it belongs to",
            )
    if not source_of(stored.architecture).trusted and options.architecture is None:
        # Metadata of a file must not decide what code is imported.
        raise SegalError(
            f"{path}: its network comes from your own code",
            expected=f"--arch {stored.architecture}, so that the import is your decision",
            got="no --arch",
            remedy="give --arch if you trust that code",
        )
    side = options.input_side
    return make_spec(
        stored.architecture,
        stored.encoder,
        stored.class_names,
        mean=options.mean or stored.mean,
        std=options.std or stored.std,
        input_scale=options.input_scale or stored.input_scale,
        insert_dropout=stored.insert_dropout
        if options.insert_dropout is None
        else options.insert_dropout,
        options={**stored.options, **(options.options or {})},
        stride=stored.stride,
        task=stored.task,
        framing=stored.framing,
        input_side=0 if side is None and stored.framing is None else side,
        input_channels=stored.input_channels,
    )
