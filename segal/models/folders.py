"""Networks in folders that `save_pretrained` wrote: of smp, and of Hugging Face's transformers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from segal.errors import SegalError
from segal.models.build import build_network, make_spec, wrap
from segal.models.sources.huggingface import load_pretrained
from segal.models.sources.huggingface_files import PREFIX, find_folder, read_json
from segal.models.spec import DEFAULT_TASK, ModelSpec
from segal.models.weight_files import read_tensors
from segal.models.weights import load_weights
from segal.models.wrapped import Model

_CLASS = "_model_class"  # of smp, in its config.json
_NOT_OPTIONS = {
    *("encoder_name", "encoder_weights", "classes", "in_channels", "activation", "aux_params"),
}
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def weight_files(folder: Path) -> list[Path]:
    """Files of weights in a folder; none where it holds only a configuration."""
    return sorted({file for pattern in _WEIGHTS for file in folder.glob(pattern)})


def folder_of(architecture: str | None) -> Path | None:
    """The folder with weights that `hf:FOLDER` names; None for any other name.

    Raises:
        SegalError: If there is no such folder.
    """
    if architecture is None or not architecture.startswith(PREFIX):
        return None
    folder = find_folder(architecture)
    return folder if weight_files(folder) else None


def read_folder(
    folder: Path, class_names: Sequence[str] = (), task: str = DEFAULT_TASK
) -> ModelSpec:
    """The specification of a folder's network.

    Args:
        folder: It.
        class_names: Other names for its classes, or other classes.
        task: What the network is to be asked.

    Raises:
        SegalError: If it holds no network that can be built.
    """
    if not (folder / "config.json").is_file():
        raise SegalError(
            f"{folder}: no checkpoint",
            expected="a file of weights, or a folder that save_pretrained wrote",
            got="a folder without config.json",
            remedy="give the file of weights in it",
        )
    config = read_json(folder / "config.json")
    if _CLASS not in config:
        return make_spec(f"{PREFIX}{folder}", class_names=tuple(class_names), task=task)
    if config.get("activation") not in (None, "identity"):
        raise SegalError(
            f"{folder}: its network ends in an activation",
            expected="a network whose output are logits",
            got=f"activation {config['activation']!r}"[:200],
            remedy="save it with activation=None: the weights are the same",
        )
    classes, channels = config.get("classes", 1), config.get("in_channels", 3)
    for key, value in (("classes", classes), ("in_channels", channels)):
        if not isinstance(value, int) or not 1 <= value <= 4096:
            raise SegalError(
                f"{folder / 'config.json'}: its {key} cannot be used",
                expected="a number from 1 to 4096",
                got=repr(value)[:100],
                remedy="save the network again with save_pretrained",
            )
    options = {
        key: value
        for key, value in config.items()
        if key not in _NOT_OPTIONS and not key.startswith("_") and value is not None
    }
    if classes == 1:  # the logit of the second of two
        classes, options["classes"] = 2, 1
    spec = make_spec(
        str(config[_CLASS]),
        str(config.get("encoder_name", "resnet34")),
        tuple(class_names) or tuple(f"class {i}" for i in range(classes)),
        options=options,
    )
    if channels != spec.channels:
        mean, std = ((sum(v) / len(v),) * channels for v in (spec.mean, spec.std))
        spec = replace(spec, mean=mean, std=std)
    if len(spec.class_names) != classes:
        raise SegalError(
            f"{folder}: a network of other classes",
            expected=f"{classes} classes",
            got=f"{len(spec.class_names)}: {', '.join(spec.class_names)}"[:200],
            remedy="give the data that it was trained for, or train another with segal train",
        )
    return spec


def load_folder(folder: Path, spec: ModelSpec, *, new_head: bool = False) -> Model:
    """The network of a folder, with its weights, in `eval()` mode.

    Args:
        folder: It.
        spec: As `read_folder` gives it, or changed.
        new_head: Whether a network of transformers may have other classes than the folder's.

    Raises:
        SegalError: If the weights are missing or do not fit.
    """
    files = weight_files(folder)
    if not files:
        raise SegalError(
            f"{folder}: holds no weights",
            expected=f"{' or '.join(_WEIGHTS)}",
            got="a configuration alone",
            remedy="give it to segal train as --arch hf:FOLDER, which starts at random",
        )
    if spec.architecture.startswith(PREFIX):
        network, notes = load_pretrained(spec, folder, new_head=new_head)
    else:
        network = build_network(spec)
        stored = read_tensors(files[0])
        notes = load_weights(network, stored, files[0], classes=spec.num_classes)
    model = wrap(network, spec)
    model.notes = notes
    return model.eval()
