"""The files of a Hugging Face folder: what they may say, and what it means to segal."""

import importlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import timm

from segal.errors import SegalError
from segal.models.normalisation import IMAGENET, Constants
from segal.system.files import read_error

PREFIX = "hf:"

_MOST_BYTES = 4 << 20  # label names of a thousand classes are a tenth of that
_MOST = 100_000  # of a configuration's numbers: a file must not fill the memory
_DEPTH = 6
# What is the library's own business, is kept elsewhere, or names code.
_LEFT_OUT = {
    *("auto_map", "architectures", "transformers_version", "dtype", "torch_dtype"),
    *("_name_or_path", "id2label", "label2id", "num_labels", "_commit_hash", "custom_pipelines"),
    *("_attn_implementation", "attn_implementation", "quantization_config"),
}
_HALF: Constants = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_UNIT: Constants = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
# What processors do where their file does not say.
_DEFAULTS = {
    **dict.fromkeys(("beit", "data2vec-vision", "dpt", "mobilenet_v2"), _HALF),
    **dict.fromkeys(("mobilevit", "mobilevitv2"), _UNIT),
}
_FLIPPED = {"mobilevit", "mobilevitv2"}
_NOT_NORMALISED = {"d_fine", "rt_detr", "rt_detr_v2"}


def find_folder(architecture: str) -> Path:
    """The folder of `hf:FOLDER`, or of `hf:NAME` in the local cache.

    Raises:
        SegalError: If there is none.
    """
    name = architecture.removeprefix(PREFIX)
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if not folder.is_dir() and name.count("/") <= 1 and name:
        hub = importlib.import_module("huggingface_hub")
        try:
            cached = Path(hub.snapshot_download(name, local_files_only=True))
            if (cached / "config.json").is_file():
                return cached
        except Exception:  # not cached, or no name at all: said below
            pass
    raise SegalError(
        f"{architecture}: no such network",
        expected="a folder with a config.json, as save_pretrained writes it, or a name in the "
        "local Hugging Face cache",
        got="a folder without config.json" if folder.is_dir() else "nothing of that name",
        remedy="download it first (hf download NAME --local-dir FOLDER); segal downloads nothing",
    )


def read_json(file: Path) -> dict[str, Any]:
    """A mapping from a file.

    Raises:
        SegalError: If it is missing, too large, or something else.
    """
    try:
        with file.open("rb") as stream:
            text = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise read_error(file, error, "a JSON file") from error
    try:
        if len(text) > _MOST_BYTES:
            raise ValueError("larger than 4 MiB")
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"a {type(values).__name__}")
    except (ValueError, RecursionError) as error:
        raise SegalError(
            f"{file}: cannot be read",
            expected="a mapping in JSON",
            got=str(error)[:200],
            remedy="save the network again with save_pretrained",
        ) from error
    return values


def check_config(raw: object, allowed: Collection[str], asked: str, where: str) -> dict[str, Any]:
    """A configuration that may be built: of an allowed type, without code, classes or downloads.

    Args:
        raw: It.
        allowed: Types of networks.
        asked: What they are for, for messages.
        where: Likewise, where it comes from.

    Raises:
        SegalError: If it is not.
    """
    kind = raw.get("model_type") if isinstance(raw, Mapping) else None
    if not isinstance(raw, Mapping) or not isinstance(kind, str) or kind not in allowed:
        raise SegalError(
            f"{where}: not a network for {asked} that segal knows",
            expected=f"model_type {', '.join(sorted(allowed))}",
            got=repr(kind)[:100],
            remedy="give a network of these, or one of your own as package.module:name",
        )
    config = _cleaned(raw, where)
    assert isinstance(config, dict)
    _check_backbone(config, where)
    return config


def _cleaned(value: object, where: str, depth: int = 0) -> Any:
    good = depth <= _DEPTH
    if isinstance(value, Mapping):
        kept = {str(k): v for k, v in value.items() if k not in _LEFT_OUT}
        if good and len(kept) <= 1000:
            return {k: _cleaned(v, where, depth + 1) for k, v in kept.items()}
    elif isinstance(value, list | tuple):
        if good and len(value) <= 1000:
            return [_cleaned(v, where, depth + 1) for v in value]
    elif isinstance(value, int | float):
        if abs(value) <= _MOST:
            return value
    elif value is None or (isinstance(value, str) and len(value) <= 1000):
        return value
    raise SegalError(
        f"{where}: a value that cannot be used",
        expected=f"numbers up to {_MOST}, texts, lists and mappings",
        got=repr(value)[:100],
        remedy="save the network again with save_pretrained",
    )


def _check_backbone(config: Mapping[str, Any], where: str) -> None:
    """A backbone may be described, or be a name that timm builds; it is never looked up."""
    name, inner = config.get("backbone"), config.get("backbone_config")
    if isinstance(inner, Mapping):
        _check_backbone(inner, where)
    elif name is not None and not (isinstance(name, str) and timm.is_model(name)):
        raise SegalError(
            f"{where}: its backbone is a name on the hub",
            expected="a backbone_config, or the name of a network of timm",
            got=repr(name)[:100],
            remedy="save the network again with save_pretrained: it writes the backbone_config",
        )
    if config.get("model_type") == "timm_backbone" and not timm.is_model(str(name)):
        raise SegalError(
            f"{where}: its backbone is not one of timm's",
            expected="the name of a network of timm",
            got=repr(name)[:100],
            remedy="give a network whose backbone is",
        )


def input_constants(processor: Mapping[str, Any], model_type: str) -> tuple[Constants, bool]:
    """What a processor's file says of the input.

    Args:
        processor: Of `preprocessor_config.json`; keys that it lacks are as its library has them.
        model_type: Of the network.

    Returns:
        Mean and std on the scale 0 to 1, and whether the channels are B, G, R.

    Raises:
        SegalError: If they are no numbers.
    """
    mean, std = _DEFAULTS.get(model_type, IMAGENET)
    flip = bool(processor.get("do_flip_channel_order", model_type in _FLIPPED))
    try:
        if processor.get("do_normalize", model_type not in _NOT_NORMALISED):
            mean = tuple(map(float, processor.get("image_mean") or mean))
            std = tuple(map(float, processor.get("image_std") or std))
        else:
            mean, std = _UNIT
        # It multiplies values of 0 to 255; ours are those of 0 to 1.
        rescaled = processor.get("do_rescale", True)
        factor = 255 * float(processor.get("rescale_factor") or 1 / 255) if rescaled else 255.0
        if not 1e-6 <= factor <= 1e6:
            raise ValueError(f"rescale_factor {factor / 255}")
    except (TypeError, ValueError) as error:
        raise SegalError(
            "preprocessor_config.json: its normalisation cannot be used",
            expected="image_mean and image_std with a number for each channel, a rescale_factor",
            got=str(error)[:200],
            remedy="mend the file, or give --mean and --std",
        ) from error
    if abs(factor - 1) > 1e-6:
        mean, std = tuple(m / factor for m in mean), tuple(s / factor for s in std)
    return ((mean[::-1], std[::-1]) if flip else (mean, std)), flip
