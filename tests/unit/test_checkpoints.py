"""Checkpoints as people have them: the same network out of every form, or an error that says why.

The oracle is the plain state_dict, and smp's own `load_state_dict` for files of its older versions.
"""

import argparse
import datetime
import enum
import json
import pickle
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from segal.errors import SegalError
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import CheckpointOptions, load_checkpoint
from segal.models.weight_files import StoredTensors, read_tensors
from segal.models.weights import load_encoder

OWN = "tests.tiny_network:build"
CLASSES = ("a", "b", "c")
OPTIONS = CheckpointOptions(architecture=OWN, num_classes=len(CLASSES))


def tiny(seed=0):
    """A tiny network, none of whose tensors is as it was initialised."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_model(make_spec(OWN, class_names=CLASSES)).eval().network
        with torch.no_grad():
            for value in network.state_dict().values():
                if value.is_floating_point():
                    value.add_(torch.rand(value.shape))
    return network


@pytest.fixture(scope="module")
def network():
    return tiny()


def logits(model):
    with torch.no_grad():
        return model(torch.randn(1, 3, 32, 40, generator=torch.Generator().manual_seed(3)))


def assert_loads(path, network, options=OPTIONS):
    """Loads a file, compares the logits with the network's, and returns the notes."""
    model = load_checkpoint(path, options)
    assert torch.equal(logits(model.network), logits(network))
    return model.notes


def refused(path, options=OPTIONS):
    with pytest.raises(SegalError) as caught:
        load_checkpoint(path, options)
    assert caught.value.expected and caught.value.got and caught.value.remedy
    return str(caught.value)


def prefixed(state, *prefixes):
    return {"".join(prefixes) + key: value for key, value in state.items()}


def inner(state, wrapper):
    """Names as torch makes them where it wraps the network's layers one by one."""
    return {key.replace(".", f".{wrapper}.", 1): value for key, value in state.items()}


FLAT = {
    "plain": lambda s: s,
    "DataParallel": lambda s: prefixed(s, "module."),
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "compiled, then parallel": lambda s: prefixed(s, "module.", "_orig_mod."),
    "parallel, then compiled": lambda s: prefixed(s, "_orig_mod.", "module."),
    "twice": lambda s: prefixed(s, "module.", "module."),
    "model": lambda s: prefixed(s, "model."),
    "net": lambda s: prefixed(s, "net."),
    "student": lambda s: prefixed(s, "student.backbone."),
    "any name": lambda s: prefixed(s, "my-Ünet."),
    "layers compiled": lambda s: inner(s, "_orig_mod"),
    "layers compiled in a model": lambda s: prefixed(inner(s, "_orig_mod"), "model."),
    "FSDP": lambda s: prefixed(inner(s, "_checkpoint_wrapped_module"), "_fsdp_wrapped_module."),
    "loss and metric beside": lambda s: {
        **prefixed(s, "model."),
        "criterion.weight": torch.ones(3),
        "loss.pos_weight": torch.ones(1),
        "train_iou.confmat": torch.zeros(3, 3, dtype=torch.int64),
    },
    "loss and metric among": lambda s: {
        **s,
        "criterion.weight": torch.ones(3),
        "val_metrics.confmat": torch.zeros(3, 3, dtype=torch.int64),
        "class_weights": torch.ones(3),
    },
    "auxiliary heads": lambda s: {
        **s,
        "aux_classifier.0.weight": torch.ones(3, 8, 1, 1),
        "classification_head.3.bias": torch.ones(2),
    },
    "half precision": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    "double precision": lambda s: {
        k: v.double() if v.is_floating_point() else v for k, v in s.items()
    },
    "mean of counters": lambda s: {
        k: v.double() + 0.5 if "num_batches" in k else v for k, v in s.items()
    },
    "without counters": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
    "the same twice": lambda s: {**prefixed(s, "model."), **prefixed(s, "best.")},
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("form", FLAT)
def test_names_in_a_file(network, tmp_path, form, suffix):
    path = tmp_path / f"model{suffix}"
    state = {key: value.clone() for key, value in FLAT[form](network.state_dict()).items()}
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    expected = network
    if form == "half precision":
        expected = tiny()
        with torch.no_grad():
            for value in expected.state_dict().values():
                value.copy_(value.half())
    notes = assert_loads(path, expected)
    plain = form in {"plain", "half precision", "double precision"} or "counters" in form
    assert len(notes) == (not plain), notes


def test_what_is_told(network, tmp_path):
    path = tmp_path / "model.pth"
    for form, note in (
        ("loss and metric beside", "the weights under 'model'; left out: criterion, loss, "),
        ("loss and metric among", "left out: criterion, val_metrics, class_weights."),
        ("auxiliary heads", "left out: aux_classifier, classification_head."),
        ("compiled", "without _orig_mod in the names."),
    ):
        torch.save(FLAT[form](network.state_dict()), path)
        (found,) = assert_loads(path, network)
        assert note in found
        assert found.startswith("model.pth: ")


class Colour(enum.Enum):
    RED = 1


class Settings(dict):
    """As yacs, addict and Lightning have them: a dictionary with attributes."""

    def __init__(self, **items):
        super().__init__(items)
        self.frozen = True


class Lines(list):
    pass


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value=1):
        self.value = value


HARMLESS = {
    "numpy scalar": np.float64(0.9),
    "numpy array": np.arange(5),
    "numpy object array": np.array([{"a": 1}, None], object),
    "numpy structured": np.zeros(2, [("a", "f4"), ("b", "i8")]),
    "numpy dtype": np.dtype("float32"),
    "namespace": argparse.Namespace(lr=0.1, out=Path("runs")),
    "path": PurePosixPath("a/b"),
    "date": datetime.datetime(2026, 1, 2),
    "enum": Colour.RED,
    "tensors of a pickled class": Slotted(torch.ones(3)),
    "settings": {"outer": Settings(lr=0.1, inner=Settings(b=2))},
    "defaultdict": defaultdict(list, {"a": [1]}),
    "list": Lines([1, 2]),
    "slots": Slotted(),
    "function": torch.nn.functional.relu,
    "class": Settings,
    "all": [np.float32(1), Settings(a=Slotted()), Lines([Settings()]), defaultdict(int, a=1)],
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", HARMLESS)
def test_objects_beside_the_weights_are_passed_over(network, tmp_path, kind, zipped):
    path = tmp_path / "model.pth"
    saved = {"model_state_dict": network.state_dict(), "best": HARMLESS[kind]}
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    assert len(assert_loads(path, network)) == 1


def lightning(network):
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": OrderedDict(
            **prefixed(network.state_dict(), "model."), **{"criterion.weight": torch.ones(3)}
        ),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"done": 3}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [torch.optim.Adam(network.parameters()).state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "root": Path("data")},
    }


def trained(network):
    """The state of an optimizer that has stepped: its tensors have the shapes of the network's."""
    optimizer = torch.optim.Adam(network.parameters())
    logits(network).sum()
    for value in network.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    return optimizer.state_dict()


NESTED = {
    "lightning": lightning,
    "EMA alone": lambda n: {"ema_state_dict": prefixed(n.state_dict(), "module."), "decay": 0.999},
    "model_ema": lambda n: {"epoch": 1, "model_ema": n.state_dict()},
    "AveragedModel": lambda n: AveragedModel(n).state_dict(),
    "AveragedModel of a compiled one": lambda n: AveragedModel(torch.compile(n)).state_dict(),
    "compiled": lambda n: torch.compile(n).state_dict(),
    "parallel": lambda n: {"net": nn.DataParallel(n).state_dict(), "acc": 91.2, "epoch": 4},
    "numpy beside": lambda n: {"model_state_dict": n.state_dict(), "best": np.float64(0.8)},
    "optimizer beside": lambda n: {"model": n.state_dict(), "optimizer": trained(tiny())},
    "deep": lambda n: {"a": {"b": [1, ({"c": {"state": n.state_dict()}},)]}},
    "in parts": lambda n: {"net": {str(i): child.state_dict() for i, child in enumerate(n)}},
    "once, named twice": lambda n: dict.fromkeys(("model", "best_model"), n.state_dict()),
    "parameters": lambda n: {
        "p": {**n.state_dict(), **{k: v.detach() for k, v in n.named_parameters()}}
    },
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("form", NESTED)
def test_nested_weights(network, tmp_path, form, zipped):
    path = tmp_path / "model.ckpt"
    torch.save(NESTED[form](network), path, _use_new_zipfile_serialization=zipped)
    assert len(assert_loads(path, network)) == 1


def test_what_is_told_of_lightning(network, tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save(lightning(network), path)
    (note,) = assert_loads(path, network)
    assert "'state_dict.model'; left out: state_dict.criterion, callbacks" in note


def test_one_of_several(network, tmp_path):
    path, other = tmp_path / "model.pth", tiny(1)
    assert not torch.equal(logits(network), logits(other))
    saved = {"model": network.state_dict(), "ema": prefixed(other.state_dict(), "module.")}
    torch.save(saved, path)
    message = refused(path)
    assert "got: model, ema.module" in message
    assert "model.state=model or model.state=ema.module" in message
    for state, expected in (("model", network), ("ema", other), ("ema.module", other)):
        options = CheckpointOptions(OWN, num_classes=3, state=state)
        assert_loads(path, expected, options)
    message = refused(path, CheckpointOptions(OWN, num_classes=3, state="teacher"))
    assert "holds nothing of that name" in message
    assert "one of model, ema" in message

    # The network's own names beside others that also fit.
    torch.save({**network.state_dict(), **prefixed(other.state_dict(), "teacher.")}, path)
    assert "teacher" in refused(path)
    assert_loads(path, other, CheckpointOptions(OWN, num_classes=3, state="teacher"))


@pytest.mark.parametrize(
    ("form", "parts"),
    [
        (
            lambda s: {"state_dict": prefixed({k: s[k] for k in s if k != "4.bias"}, "model.")},
            ["under 'state_dict.model'", "1 missing (4.bias)", "check --arch and model.options"],
        ),
        (
            lambda s: prefixed(s | {"6.weight": torch.ones(1)}, "module."),
            ["under 'module'", "1 extra (6.weight)"],
        ),
        (
            lambda s: s | {"refine.weight": torch.ones(1)},
            ["1 extra (refine.weight)"],
        ),
        (
            lambda s: s | {"0.weight": torch.ones(9, 3, 3, 3)},
            ["1 shape (0.weight (9, 3, 3, 3) instead of (8, 3, 3, 3))"],
        ),
        (
            lambda s: s | {"4.weight": torch.ones(11, 8, 1, 1), "4.bias": torch.ones(11)},
            ["the file has 11 classes", "give --num-classes 11", "3 classes"],
        ),
        (
            lambda s: s | {"0.weight": s["0.weight"].to(torch.int8)},
            ["0.weight is of another type", "expected: float32", "got: int8"],
        ),
        (
            lambda s: s | {"0.weight": s["0.weight"].to(torch.complex64)},
            ["0.weight is of another type"],
        ),
        (
            lambda s: s | {"4.weight": s["4.weight"].to_sparse()},
            ["1 missing (4.weight)", "4.weight (a tensor that is quantised, sparse"],
        ),
        (
            lambda s: s | {"0.weight": s["0.weight"].double() * 1e300},
            ["0.weight holds values that are not finite", "as float32"],
        ),
        (
            lambda s: {"model": {"encoder.weight": torch.ones(1)}, "cfg": Slotted()},
            ["none with a name of this network: model.encoder.weight", "tensors such as 0.weight",
             "cfg (", "Slotted)"],
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(network, tmp_path, form, parts):
    path = tmp_path / "model.pth"
    torch.save(form(network.state_dict()), path)
    message = refused(path)
    for part in parts:
        assert part in message, message


class Network(nn.Module):
    """Found by pickle."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_whole_pickled_networks(tmp_path, zipped):
    path = tmp_path / "model.pt"
    for saved in (Network(), {"model": Network(), "epoch": 1}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its source
            torch.save(saved, path, _use_new_zipfile_serialization=zipped)
        message = refused(path)
        assert "Network" in message
        assert "state_dict()" in message


def test_other_files(network, tmp_path):
    script = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 1)), script)
    assert "a TorchScript archive" in refused(script)
    for content, what in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (pickle.dumps({"a": 1}), "cannot be read"),
        (b"PK\x03\x04", "BadZipFile"),
    ):
        path = tmp_path / "model.pth"
        path.write_bytes(content)
        assert what in refused(path)
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("a.txt", "b")
    assert "torch.save did not write" in refused(tmp_path / "other.pth")
    assert "a folder" in refused(tmp_path)

    torch.save(network.state_dict(), tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as whole,
        zipfile.ZipFile(tmp_path / "smaller.pth", "w", zipfile.ZIP_DEFLATED) as smaller,
    ):
        for name in whole.namelist():
            smaller.writestr(name, whole.read(name))
    assert "compressed" in refused(tmp_path / "smaller.pth")


class Runs:
    """Unpickling it makes a file, by a function that is called or by its own state."""

    def __init__(self, how, path):
        self.how, self.path = how, path

    def __reduce__(self):
        if self.how == "call":
            return (_touch, (self.path,))
        return (_Touching, (), {"path": self.path})


def _touch(path):
    Path(path).touch()
    return {}


class _Touching:
    def __setstate__(self, state):
        _touch(state["path"])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("how", ["call", "state"])
def test_nothing_in_a_file_is_run(network, tmp_path, how, zipped):
    path, touched = tmp_path / "model.pth", tmp_path / "touched"
    saved = {"model": network.state_dict(), "more": [Runs(how, str(touched))]}
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    before = set(torch.serialization.get_safe_globals())
    assert_loads(path, network)
    assert not touched.exists()
    assert set(torch.serialization.get_safe_globals()) == before, "the stand-ins are gone again"
    torch.load(path, weights_only=False)
    assert touched.exists(), "it would run"


def test_dictionaries_that_hold_each_other(network, tmp_path):
    path = tmp_path / "model.pth"
    saved = {"model": network.state_dict()}
    saved["self"], saved["wide"] = saved, [saved] * 10
    for _ in range(20):
        saved["wide"] = [saved["wide"]] * 10
    torch.save(saved, path)
    assert_loads(path, network)


OLD_NAMES = {
    "DeepLabV3": {"decoder.aspp.": "decoder.0.", "decoder.conv.": "decoder.1.",
                  "decoder.bn.": "decoder.2."},
    "Unet": {"encoder.model.": "encoder."},
}  # fmt: skip
"""Today's beginnings of names, with those that smp 0.3 and 0.4 gave these tensors."""


def old_smp(state, architecture):
    for new, old in OLD_NAMES[architecture].items():
        state = {
            old + key.removeprefix(new) if key.startswith(new) else key: value
            for key, value in state.items()
        }
    return state


@pytest.mark.parametrize(
    ("architecture", "encoder", "prefix"),
    [
        ("DeepLabV3", "mobilenet_v2", ""),
        ("Unet", "timm-resnest14d", "model.module."),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_older_smp(tmp_path, architecture, encoder, prefix):
    torch.manual_seed(0)
    made = smp.create_model(architecture, encoder, encoder_weights=None, classes=3).eval()
    old = old_smp(made.state_dict(), architecture)
    made.load_state_dict(dict(old))  # which smp takes for what they are
    path = tmp_path / "model.pth"
    torch.save(prefixed(old, prefix), path)
    model = load_checkpoint(path, CheckpointOptions(architecture, encoder, 3))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.network(image), made(image))
    changed = sum(key not in made.state_dict() for key in old)
    assert changed
    assert f"{changed} names of an older version changed" in model.notes[0]


@pytest.mark.parametrize("name", ["convnext_atto", "mobilenetv3_small_050"])
def test_encoder_weights_as_timm_publishes_them(tmp_path, name):
    path = tmp_path / "encoder.pth"
    torch.manual_seed(1)
    published = timm.create_model(name).eval()
    torch.save({"state_dict": prefixed(published.state_dict(), "module.")}, path)
    model = build_model(make_spec("Unet", f"tu-{name}", CLASSES), path).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = model.network.encoder(image)[-1]
        expected = published.forward_intermediates(image, intermediates_only=True)[-1]
    assert torch.allclose(features, expected, atol=1e-5)
    assert "left out" in model.notes[0]


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "hrnet_w18_small"])
def test_published_weights_that_end_beyond_the_encoder(name):
    with torch.device("meta"):
        published = timm.create_model(name).state_dict()
        encoder = smp.encoders.get_encoder(f"tu-{name}")
    network = nn.Module()
    network.encoder = encoder.to_empty(device="cpu")
    for value in network.state_dict().values():
        value.fill_(7)
    published = {
        key: torch.zeros(value.shape, dtype=value.dtype) for key, value in published.items()
    }
    stored = StoredTensors(published, dict.fromkeys(published, ""), {})
    spec = make_spec("Unet", f"tu-{name}", CLASSES)
    (note,) = load_encoder(network, spec, stored, Path("published.pth"))
    assert "left out: " in note
    assert not any(value.any() for value in network.state_dict().values())


def test_encoder_weights_out_of_a_whole_network(tmp_path):
    path = tmp_path / "whole.ckpt"
    whole = smp.Unet("resnet18", encoder_weights=None, classes=7)
    torch.save({"state_dict": prefixed(whole.state_dict(), "model.")}, path)
    model = build_model(make_spec("FPN", "resnet18", CLASSES), path)
    for key, value in whole.encoder.state_dict().items():
        assert torch.equal(model.network.encoder.state_dict()[key], value), key
    assert "'state_dict.model.encoder'; left out: state_dict.model.decoder" in model.notes[0]
    torch.save({"a": whole.encoder.state_dict(), "b": whole.encoder.state_dict()}, path)
    assert build_model(make_spec("FPN", "resnet18", CLASSES), path, "b").notes


def test_the_option_that_decides_over_what_differs(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(smp.Unet("resnet34", encoder_weights=None, classes=3).state_dict(), path)
    message = refused(path, CheckpointOptions("Unet", "resnet18", 3))
    assert "extra (encoder.layer1.2.conv1.weight" in message
    assert "check --encoder against" in message
    torch.save(smp.FPN("resnet18", encoder_weights=None, classes=3).state_dict(), path)
    message = refused(path, CheckpointOptions("Unet", "resnet18", 3))
    assert "check --arch and model.options" in message
    assert "missing (decoder." in message


def test_hostile_names(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"x." * 100_000 + "0.weight": torch.ones(1), "_orig_mod": torch.ones(1)}, path)
    assert len(refused(path)) < 2000


def test_tensors_of_a_file(tmp_path):
    path = tmp_path / "model.pth"
    inside = {"w": torch.ones(2), "n": torch.zeros(1)}
    torch.save({"a": {"b": [inside, inside], 3: inside["n"]}, "c": 1, "d": Slotted()}, path)
    stored = read_tensors(path)
    assert list(stored.tensors) == ["a.3", "a.b.0.w", "a.b.0.n"]
    assert stored.homes == {"a.3": "a", "a.b.0.w": "a.b.0", "a.b.0.n": "a.b.0"}
    assert list(stored.unread) == ["d"]


def test_the_same_picks_from_every_door(network, tmp_path, image_folder, segal):
    arguments = [
        *("--images", image_folder, "--region", 32, "--budget", "5", "--strategy", "uwe"),
        *(f"model.architecture={OWN}", "model.num_classes=3", "overlays=0"),
    ]
    plain, nested = tmp_path / "plain.pth", tmp_path / "last.ckpt"
    torch.save(network.state_dict(), plain)
    averaged = AveragedModel(tiny(1)).state_dict()
    torch.save(lightning(torch.compile(network)) | {"averaging_state": averaged}, nested)
    code, _, stderr = segal("select", *arguments, "--checkpoint", plain, "--out", tmp_path / "a")
    assert code == 0, stderr
    arguments += ["--checkpoint", nested]
    code, _, stderr = segal("select", *arguments, "--out", tmp_path / "b")
    assert code == 2
    assert "model.state=state_dict.model or model.state=averaging_state.module" in stderr
    state = "model.state=state_dict.model"
    code, _, stderr = segal("select", *arguments, "--out", tmp_path / "b", state)
    assert code == 0, stderr
    picks = [(tmp_path / name / "selection.csv").read_bytes() for name in "ab"]
    assert picks[0] == picks[1]
    note = json.loads((tmp_path / "b" / "summary.json").read_text())["notes"][0]
    assert note in stderr
    assert note.startswith("last.ckpt: the weights under 'state_dict.model'; without _orig_mod")
    code, _, stderr = segal("plan", *arguments, state)
    assert code == 0, stderr
    assert note in stderr
