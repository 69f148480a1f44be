import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from segal.errors import SegalError
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import (
    CheckpointOptions,
    load_checkpoint,
    read_spec,
    save_checkpoint,
)
from segal.tasks.segmentation.model import SegmentationModel

CLASSES = ("road", "car", "sky", "tree", "person")
ARCHITECTURES = ["DeepLabV3Plus", "Unet", "FPN", "PSPNet", "UPerNet"]


def own_network(num_classes):
    """What a user names by import path: as torchvision's, a dictionary, corners not aligned."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 7, 3, stride=4, padding=1)
            self.head = nn.Conv2d(7, num_classes, 1)

        def forward(self, images):
            low = self.head(self.body(images).relu())
            size = images.shape[-2:]
            out = F.interpolate(low, size, mode="bilinear", align_corners=False)
            return {"out": out, "aux": out * 0}

    return Network()


def stride_8_network(num_classes):
    network = own_network(num_classes)
    network.size_divisibility = 8
    return network


def bright_network(num_classes):
    """Two classes, dark and bright; its last layer is at the images' own size."""
    network = nn.Sequential(nn.Identity(), nn.Conv2d(3, num_classes, 1))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 1, 1))
        network[1].bias.copy_(torch.tensor([1.5, -1.5]))
    return network


def headless_network(num_classes):
    """Its logits are no upsampling of a convolution's output."""
    return nn.Sequential(nn.Conv2d(3, num_classes, 1), nn.Softmax(1))


def not_a_network(num_classes):
    return num_classes


@pytest.fixture(scope="session")
def own_module(tmp_path_factory):
    """The import path of this module, importable by name."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "users_networks.py").write_text(Path(__file__).read_text())
    sys.path.insert(0, str(folder))
    yield "users_networks"
    sys.path.remove(str(folder))


@pytest.fixture(scope="session")
def deeplab():
    torch.manual_seed(0)
    return build_model(make_spec("DeepLabV3Plus", "resnet18", CLASSES)).eval()


def noise(height, width, batch=2):
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(batch, 3, height, width, generator=generator)


def check_evidence(model, images):
    """The features, through the head and upsampled, give the logits; and so does the tail."""
    with torch.no_grad():
        evidence = model(images, ("last",))
        upsampling, (height, width) = evidence.upsampling, images.shape[-2:]

        def upsampled(low):
            corners = upsampling.align_corners
            out = F.interpolate(low, upsampling.size, mode="bilinear", align_corners=corners)
            return out[..., :height, :width]

        tail = model.tail("last")
        ways = [
            upsampled(model.head(evidence.features)),
            tail(evidence.tail_input["last"], tail.parameters, (height, width), upsampling),
        ]
        if model.head.kernel_size == (1, 1):  # interpolation and a 1x1 convolution commute
            ways.append(model.head(upsampled(evidence.features)))
        assert evidence.logits.shape == (len(images), len(CLASSES), height, width)
        for way in ways:
            scale = float(way.abs().max())
            torch.testing.assert_close(evidence.logits, way, rtol=1e-4, atol=1e-5 * scale)
    return evidence


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_gives_its_evidence(architecture):
    torch.manual_seed(0)
    model = build_model(make_spec(architecture, "resnet18", CLASSES)).eval()
    images = noise(64, 96)
    evidence = check_evidence(model, images)
    with torch.no_grad():
        torch.testing.assert_close(evidence.logits, model.network(images))
    check_evidence(model, noise(67, 90))
    pointwise = architecture in {"DeepLabV3Plus", "FPN", "UPerNet"}
    assert (model.head.kernel_size == (1, 1)) == pointwise


@pytest.mark.parametrize("size", [(64, 64), (65, 79), (33, 127), (17, 16)])
def test_last_two_layers_reproduce_the_logits(deeplab, size):
    with torch.no_grad():
        evidence = deeplab(noise(*size), ("last", "last_two"))
        tail = deeplab.tail("last_two")
        logits = tail(evidence.tail_input["last_two"], tail.parameters, size, evidence.upsampling)
        torch.testing.assert_close(logits, evidence.logits, rtol=1e-4, atol=1e-5)
        # Other parameters are taken in place of its own.
        halved = {name: value / 2 for name, value in tail.parameters.items()}
        assert not torch.allclose(
            tail(evidence.tail_input["last_two"], halved, size, evidence.upsampling), logits
        )
    assert sorted(tail.parameters) == ["0.weight", "3.bias", "3.weight"]


def test_padding_is_a_replication_to_the_right_and_below(deeplab):
    images = noise(50, 71)
    padded = F.pad(images, (0, 9, 0, 14), mode="replicate")
    with torch.no_grad():
        expected = deeplab.network(padded)[..., :50, :71]
        torch.testing.assert_close(deeplab(images).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 96), (61, 83)])
def test_input_scale_changes_what_the_network_sees_only(deeplab, size):
    model = SegmentationModel(deeplab.network, replace(deeplab.spec, input_scale=0.5)).eval()
    seen = []
    hook = model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    evidence = check_evidence(model, noise(*size))
    hook.remove()
    assert evidence.upsampling.size >= size
    assert seen[-1][-2:] == (32, 48)


@pytest.mark.parametrize("scale", [0.25, 0.5, 2])
def test_edges_stay_where_they_are_at_another_scale(own_module, scale):
    """A last layer at the images' own size is spread by what the images were shrunk by."""
    spec = make_spec(f"{own_module}:bright_network", class_names=("dark", "bright"))
    model = build_model(replace(spec, input_scale=scale, mean=(0, 0, 0), std=(1, 1, 1))).eval()
    images = torch.zeros(1, 3, 32, 256)
    for left, right in ((32, 64), (192, 224)):
        images[..., left:right] = 1
    with torch.no_grad():
        evidence = model(images, ("last",))
    torch.testing.assert_close(evidence.logits.argmax(1), images[:, 0].long())


def test_own_network_by_import_path(own_module):
    torch.manual_seed(0)
    model = build_model(make_spec(f"{own_module}:own_network", class_names=CLASSES)).eval()
    assert model.align_corners is False
    check_evidence(model, noise(64, 96))
    check_evidence(model, noise(45, 51))


@pytest.mark.parametrize(
    ("name", "size"), [("own_network", (64, 64)), ("stride_8_network", (48, 56))]
)
def test_own_network_says_its_stride(own_module, tmp_path, name, size):
    architecture = f"{own_module}:{name}"
    model = build_model(make_spec(architecture, class_names=CLASSES)).eval()
    save_checkpoint(model, tmp_path / "model.safetensors")
    options = CheckpointOptions(architecture=architecture)
    for one in (model, load_checkpoint(tmp_path / "model.safetensors", options)):
        assert one.prepared(noise(45, 51)).shape[-2:] == size
        assert one.spec.stride == {64: 32, 48: 8}[size[0]]


def test_own_network_that_does_not_fit(own_module):
    with pytest.raises(SegalError, match=r"it returned int, not a torch\.nn\.Module"):
        build_model(make_spec(f"{own_module}:not_a_network", class_names=CLASSES))
    model = build_model(make_spec(f"{own_module}:headless_network", class_names=CLASSES)).eval()
    with pytest.raises(SegalError, match="its outputs are probabilities"):
        model.check()
    with pytest.raises(SegalError, match="no last layer was found"):
        _ = model.head


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalise(deeplab, dtype):
    images = torch.randint(0, 256, (2, 5, 4, 3), dtype=torch.uint8)
    fractions = images.double() / 255
    given = images if dtype == torch.uint8 else fractions.float()
    expected = (fractions - torch.tensor(deeplab.spec.mean)) / torch.tensor(deeplab.spec.std)
    got = deeplab.normalise(given)
    assert (got.dtype, got.shape) == (torch.float32, (2, 3, 5, 4))
    torch.testing.assert_close(got.double(), expected.permute(0, 3, 1, 2), rtol=0, atol=1e-5)


def test_building_leaves_the_mode_and_needs_known_names():
    assert build_model(make_spec("Unet", "resnet18", CLASSES)).network.training
    with pytest.raises(SegalError, match="did you mean 'DeepLabV3Plus'"):
        make_spec("DeepLabV3Pluss", "resnet18", CLASSES)
    with pytest.raises(SegalError, match="did you mean 'resnet18'"):
        make_spec("Unet", "resnet81", CLASSES)
    with pytest.raises(SegalError, match="classes are not known"):
        make_spec("Unet", "resnet18", CLASSES[:1])


def test_checkpoint_round_trip(deeplab, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(deeplab, path, {"iterations": 7})
    assert read_spec(path) == deeplab.spec
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["segal"])["training"] == {"iterations": 7}
    loaded = load_checkpoint(path)
    assert not loaded.training
    assert loaded.spec == deeplab.spec
    images = noise(48, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, deeplab(images).logits)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_options_beside_a_checkpoint(deeplab, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(deeplab, path)
    loaded = load_checkpoint(path, CheckpointOptions(input_scale=0.5, mean=(0.1, 0.2, 0.3)))
    assert (loaded.spec.input_scale, loaded.spec.mean) == (0.5, (0.1, 0.2, 0.3))
    for options, what in (
        (CheckpointOptions(encoder="resnet34"), "encoder"),
        (CheckpointOptions(architecture="Unet"), "architecture"),
        (CheckpointOptions(num_classes=3), "number of classes"),
    ):
        with pytest.raises(SegalError, match=f"another {what}"):
            load_checkpoint(path, options)


def test_checkpoint_does_not_decide_what_is_imported(own_module, tmp_path):
    path, name = tmp_path / "own.safetensors", f"{own_module}:own_network"
    save_checkpoint(build_model(make_spec(name, class_names=CLASSES)), path)
    with pytest.raises(SegalError, match="your own code"):
        load_checkpoint(path)
    assert load_checkpoint(path, CheckpointOptions(architecture=name)).spec.architecture == name


PLAIN = CheckpointOptions(architecture="DeepLabV3Plus", encoder="resnet18", num_classes=5)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_plain_pth(deeplab, tmp_path, wrap, prefix):
    path = tmp_path / "model.pth"
    state = {prefix + key: value for key, value in deeplab.network.state_dict().items()}
    torch.save(wrap(state), path)
    loaded = load_checkpoint(path, PLAIN)
    assert torch.equal(loaded.head.weight, deeplab.head.weight)
    assert len(loaded.spec.class_names) == 5
    with pytest.raises(SegalError, match="plain state_dict"):
        load_checkpoint(path)


def test_plain_safetensors(deeplab, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(deeplab.network.state_dict(), path)
    assert torch.equal(load_checkpoint(path, PLAIN).head.weight, deeplab.head.weight)


def drop(state):
    del state["segmentation_head.0.bias"]


def add(state):
    state["surplus.weight"] = torch.zeros(2)


def reshape(state):
    state["segmentation_head.0.bias"] = torch.zeros(7)


def spoil(state):
    state["segmentation_head.0.weight"][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "1 missing (segmentation_head.0.bias)"),
        (add, "1 extra (surplus.weight)"),
        (reshape, "segmentation_head.0.bias (7,) instead of (5,)"),
        (spoil, "segmentation_head.0.weight holds values that are not finite"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_that_do_not_fit(deeplab, tmp_path, change, message, suffix):
    state = {key: value.clone() for key, value in deeplab.network.state_dict().items()}
    change(state)
    path = tmp_path / f"model{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    with pytest.raises(SegalError) as caught:
        load_checkpoint(path, PLAIN)
    assert message in str(caught.value)


def test_weights_of_another_encoder(deeplab, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(deeplab.network.state_dict(), path)
    with pytest.raises(SegalError, match="weights of another network"):
        load_checkpoint(path, replace(PLAIN, encoder="mobilenet_v2"))


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickled_code_is_not_run(tmp_path):
    path, touched = tmp_path / "model.pth", tmp_path / "touched"
    torch.save({"weight": torch.zeros(1), "bomb": Bomb(touched)}, path)
    with pytest.raises(SegalError, match="cannot be read as weights"):
        load_checkpoint(path, PLAIN)
    assert not touched.exists()
    torch.load(path, weights_only=False)
    assert touched.exists(), "the bomb works"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_damaged_file(deeplab, tmp_path, suffix, damage):
    path = tmp_path / f"model{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(deeplab.network.state_dict(), path)
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "text": b"hi"}[damage])
    with pytest.raises(SegalError, match="cannot be read as weights"):
        load_checkpoint(path, PLAIN)


def test_file_that_is_not_there_or_no_state_dict(tmp_path):
    with pytest.raises(SegalError, match="no such file"):
        load_checkpoint(tmp_path / "none.pth", PLAIN)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(SegalError, match="not a state_dict"):
        load_checkpoint(tmp_path / "list.pth", PLAIN)


@pytest.mark.parametrize("metadata", ["{", '{"spec": {}}', '{"spec": 3}', "[]"])
def test_damaged_metadata(deeplab, tmp_path, metadata):
    path = tmp_path / "model.safetensors"
    save_file(deeplab.network.state_dict(), path, {"segal": metadata})
    with pytest.raises(SegalError, match="metadata are damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_encoder_weights_from_a_file(deeplab, tmp_path, suffix):
    path = tmp_path / f"encoder{suffix}"
    state = deeplab.network.encoder.state_dict()
    # As torchvision writes them: with a classifier, and without counters in older files.
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    state |= {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    torch.manual_seed(1)
    model = build_model(make_spec("Unet", "resnet18", CLASSES), path)
    for key, value in deeplab.network.encoder.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(model.network.encoder.state_dict()[key], value), key
    with pytest.raises(SegalError, match="weights of another network"):
        build_model(make_spec("Unet", "mobilenet_v2", CLASSES), path)


def test_encoder_weights_need_an_encoder(own_module, tmp_path):
    path = tmp_path / "encoder.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(SegalError, match="has no encoder"):
        build_model(make_spec(f"{own_module}:own_network", class_names=CLASSES), path)


def test_writing_where_it_cannot_be_written(deeplab, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SegalError, match="cannot be written"):
        save_checkpoint(deeplab, tmp_path / "file" / "model.safetensors")
    path = tmp_path / "model.safetensors"
    save_checkpoint(deeplab, path)
    assert load_file(path).keys() == deeplab.network.state_dict().keys()
