"""Weights from files, and into networks; nothing is ever unpickled but tensors."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from segal.errors import SegalError
from segal.models.spec import ModelSpec

_CLASSIFIERS = ("fc.", "classifier.", "head.", "last_linear.", "conv_head.", "bn2.", "_fc.")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Reads a state_dict from `.safetensors`, or from `.pth` without unpickling any code.

    Raises:
        SegalError: If the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise SegalError(
            f"{path}: no such file",
            expected="a checkpoint",
            got="nothing at that path",
            remedy="check the path",
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many types for a damaged file
        raise SegalError(
            f"{path}: cannot be read as weights",
            expected="a .safetensors file, or a .pth file that holds tensors only",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}",
            remedy="save the network's state_dict() with safetensors or torch.save",
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise SegalError(
            f"{path}: not a state_dict",
            expected="a dictionary of tensors",
            got=type(loaded).__name__,
            remedy="save the network's state_dict(), not the network",
        )
    return {key.removeprefix("module."): value for key, value in loaded.items()}


def load_weights(module: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Loads a state_dict that must fit exactly.

    Raises:
        SegalError: For missing or extra keys, other shapes, or weights that are not finite.
    """
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    extra = sorted(state.keys() - own.keys())
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if missing or extra or shapes:
        raise SegalError(
            f"{source}: weights of another network",
            expected=f"{len(own)} tensors of this architecture, encoder and number of classes",
            got="; ".join(
                _some(label, names)
                for label, names in (("missing", missing), ("extra", extra), ("shape", shapes))
                if names
            ),
            remedy="check --arch, --encoder and --num-classes against how the file was made",
        )
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise SegalError(
                f"{source}: {key} holds values that are not finite",
                expected="finite weights",
                got=f"{int((~torch.isfinite(value)).sum())} NaN or infinite values",
                remedy="use a checkpoint from before the training diverged",
            )
    # Copied in place: the encoders of smp override load_state_dict to pass over some keys.
    with torch.no_grad():
        for key, value in state.items():
            own[key].copy_(value)


def _some(label: str, names: list[str]) -> str:
    return f"{len(names)} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def load_encoder(
    network: nn.Module, spec: ModelSpec, state: dict[str, Tensor], source: Path
) -> None:
    """Loads the weights of an encoder alone, which must fit; a classifier in them is left out.

    Raises:
        SegalError: As `load_weights` does, or if the network has no encoder.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise SegalError(
            f"{spec.architecture}: has no encoder to load weights into",
            expected="an architecture of segmentation_models_pytorch",
            got=spec.architecture,
            remedy="leave --encoder-weights out, and load the weights in your own function",
        )
    target = encoder.get_submodule("model") if spec.encoder.startswith("tu-") else encoder
    own = target.state_dict()
    kept = {
        key: value for key, value in state.items() if key in own or not key.startswith(_CLASSIFIERS)
    }
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):
            kept.setdefault(key, value)
    load_weights(target, kept, source)
