"""Checkpoints: one network in the forms in which people save it, loaded by segal."""

import argparse
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from segal.errors import SegalError
from segal.models.checkpoint import CheckpointOptions, load_checkpoint
from tools.compatibility.row import Row

TITLE = "Checkpoints"
INTRODUCTION = (
    "A DeepLabV3+ (of older files a DeepLabV3, or a Unet on ResNeSt) with mobilenet_v2 and 3 "
    "classes, saved in each form and loaded with `--arch`, `--encoder` and `--num-classes`; "
    '"same logits" is bit for bit those of the network that was saved.'
)
_CLASSES = 3
_Saved = Callable[[nn.Module], object]


def _prefixed(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in network.state_dict().items()}


def _other(network: nn.Module) -> dict[str, Tensor]:
    return {k: v + 1 if v.is_floating_point() else v for k, v in network.state_dict().items()}


def _with(network: nn.Module, key: str, value: object) -> dict[str, object]:
    return {**network.state_dict(), key: value}


def _optimizer(network: nn.Module) -> dict[str, object]:
    optimizer = torch.optim.Adam(network.parameters())
    for value in network.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    return optimizer.state_dict()


def _lightning(network: nn.Module) -> dict[str, object]:
    state = {**_prefixed(network, "model."), "criterion.weight": torch.ones(3)}
    state["train_iou.confmat"] = torch.zeros(3, 3)
    return {
        "epoch": 1,
        "state_dict": state,
        "optimizer_states": [_optimizer(network)],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "hyper_parameters": {
            "root": Path("data"), "args": argparse.Namespace(lr=0.1), "loss": nn.CrossEntropyLoss(),
        },
    }  # fmt: skip


TENSORS: Mapping[str, Callable[[nn.Module], Mapping[str, Tensor]]] = {
    "a plain state_dict": lambda n: n.state_dict(),
    "`DataParallel` (`module.`)": lambda n: _prefixed(n, "module."),
    "`torch.compile` (`_orig_mod.`)": lambda n: torch.compile(n).state_dict(),
    "both (`module._orig_mod.`)": lambda n: nn.DataParallel(torch.compile(n)).state_dict(),
    "both (`_orig_mod.module.`)": lambda n: torch.compile(nn.DataParallel(n)).state_dict(),
    "`model.`": lambda n: _prefixed(n, "model."),
    "`net.student.`": lambda n: _prefixed(n, "net.student."),
    "layers compiled one by one (`encoder._orig_mod.`)": lambda n: {
        k.replace(".", "._orig_mod.", 1): v for k, v in n.state_dict().items()
    },
    "`classification_head.` of `aux_params` beside": lambda n: {
        **n.state_dict(), "classification_head.3.weight": torch.ones(2, 320),
    },
    "tensors of a loss and a metric beside": lambda n: {
        **_prefixed(n, "model."), "loss.pos_weight": torch.ones(3), "iou.confmat": torch.ones(3, 3),
    },
    "without BatchNorm's counters, as before torch 0.4.1": lambda n: {
        k: v for k, v in n.state_dict().items() if "num_batches" not in k
    },
    "another number of classes": lambda n: smp.DeepLabV3Plus(
        "mobilenet_v2", encoder_weights=None, classes=11
    ).state_dict(),
    "another encoder": lambda n: smp.DeepLabV3Plus(
        "resnet18", encoder_weights=None, classes=3
    ).state_dict(),
    "another architecture": lambda n: smp.Unet(
        "mobilenet_v2", encoder_weights=None, classes=3
    ).state_dict(),
    "integers for weights": lambda n: {k: v.to(torch.int8) for k, v in n.state_dict().items()},
    "a NaN among the weights": lambda n: {
        k: v * torch.nan if k == "encoder.features.0.0.weight" else v
        for k, v in n.state_dict().items()
    },
}  # fmt: skip
"""Forms that both `.pth` and `.safetensors` can hold."""

OBJECTS: Mapping[str, _Saved] = {
    "Lightning, with a path, a namespace and a loss among its hyperparameters": _lightning,
    "`{'model_state_dict': ..., 'best': numpy scalar}`": lambda n: {
        "model_state_dict": n.state_dict(), "best": np.float64(0.5),
    },
    "`{'epoch': 3, 'net': {...}}`": lambda n: {"epoch": 3, "net": n.state_dict()},
    "an optimizer's state beside": lambda n: {"model": n.state_dict(), "opt": _optimizer(n)},
    "`AveragedModel` (`module.` and `n_averaged`)": lambda n: AveragedModel(n).state_dict(),
    "an EMA alone (`ema_state_dict`)": lambda n: {"ema_state_dict": _prefixed(n, "module.")},
    "the same weights under two names": lambda n: {"model": n.state_dict(), "best": n.state_dict()},
    "a network and its EMA": lambda n: {"model": _other(n), "ema": n.state_dict()},
    "a whole pickled network": lambda n: n,
    "a pickled network in a dictionary": lambda n: {"model": n, "epoch": 3},
}  # fmt: skip

OLDER = {
    "smp 0.3 and 0.4, DeepLabV3 (`decoder.0.`)": (
        "DeepLabV3",
        "mobilenet_v2",
        {"decoder.aspp.": "decoder.0.", "decoder.conv.": "decoder.1.", "decoder.bn.": "decoder.2."},
    ),
    "smp 0.3 and 0.4, Unet on timm-resnest14d": (
        "Unet",
        "timm-resnest14d",
        {"encoder.model.": "encoder."},
    ),
}
"""Architecture, encoder, and today's beginnings of names with those of then."""


def _network(architecture: str = "DeepLabV3Plus", encoder: str = "mobilenet_v2") -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = smp.create_model(
        architecture, encoder, encoder_weights=None, classes=_CLASSES
    )
    return network.eval()


def _outcome(path: Path, network: nn.Module, options: CheckpointOptions) -> str:
    try:
        model = load_checkpoint(path, options)
    except SegalError as error:
        problem = error.problem.removeprefix(f"{path}: ")
        return f"refused: {problem}; {error.got}; {error.remedy}".replace(str(path), path.name)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        same = torch.equal(model.network(image), network(image))
    return "; ".join(["same logits" if same else "OTHER LOGITS", *model.notes])


def rows() -> Iterator[Row]:
    """Tries them all."""
    warnings.simplefilter("ignore")
    network = _network()
    options = CheckpointOptions("DeepLabV3Plus", "mobilenet_v2", _CLASSES)
    chosen = CheckpointOptions("DeepLabV3Plus", "mobilenet_v2", _CLASSES, state="ema")
    with TemporaryDirectory() as folder:
        pth, safetensors = Path(folder, "model.pth"), Path(folder, "model.safetensors")
        for case, tensors in TENSORS.items():
            state = {key: value.clone() for key, value in tensors(network).items()}
            torch.save(state, pth)
            save_file(state, safetensors)
            found = [
                _outcome(path, network, options).replace(path.name, "FILE")
                for path in (pth, safetensors)
            ]
            yield Row(case, found[0] if found[0] == found[1] else " / ".join(found))
        for case, saved in OBJECTS.items():
            torch.save(saved(network), pth)
            yield Row(case, _outcome(pth, network, options).replace(pth.name, "FILE"))
        torch.save({"model": _other(network), "ema": network.state_dict()}, pth)
        yield Row("the same with `model.state=ema`", _outcome(pth, network, chosen))
        torch.save(network.state_dict(), pth, _use_new_zipfile_serialization=False)
        yield Row("the file format of torch before 1.6", _outcome(pth, network, options))
        torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 1)), pth)
        yield Row("a TorchScript archive", _outcome(pth, network, options))
        for case, (architecture, encoder, names) in OLDER.items():
            older = _network(architecture, encoder)
            state = dict(older.state_dict())
            for new, old in names.items():
                state = {
                    old + k.removeprefix(new) if k.startswith(new) else k: v
                    for k, v in state.items()
                }
            torch.save(state, pth)
            its = CheckpointOptions(architecture, encoder, _CLASSES)
            yield Row(case, _outcome(pth, older, its).replace(pth.name, "FILE"))
