"""Networks of whole images: by name, as they are fed, their head, their files."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.transforms import v2

from segal.config import ModelConfig, NetworkConfig
from segal.errors import SegalError
from segal.models.build import build_model, check_encoder, check_image_sizes, make_spec
from segal.models.checkpoint import CheckpointOptions, load_checkpoint, save_checkpoint
from segal.models.noise import check_network
from segal.models.pointwise import PointwiseHead
from segal.models.spec import ANSWERS, Answers, Framing, ModelSpec, answers_of
from segal.models.weight_files import read_tensors
from segal.models.wrapped import FEATURE_MAPS, FEATURES, NoHeadError
from segal.tasks.classification.model import ClassificationModel
from tests import tiny_classifier

NAMES = tuple("abcde")
NOISE = torch.Generator().manual_seed(0)


def spec_of(architecture, class_names=NAMES, **given):
    return make_spec(architecture, "", class_names, task="classification", **given)


def built(architecture, **given):
    torch.manual_seed(0)
    return build_model(spec_of(architecture, **given)).eval()


@pytest.fixture(scope="module")
def resnet():
    return built("torchvision:resnet18", input_side=32)


@pytest.mark.parametrize(
    ("architecture", "side", "head", "features", "stages"),
    [
        ("torchvision:mobilenet_v2", 64, "classifier.1", 1280, 4),
        ("torchvision:shufflenet_v2_x0_5", 64, "fc", 1024, 4),
        ("timm:vit_tiny_patch16_224", 32, "head", 192, 0),
        ("timm:mobilenetv3_small_050", 64, "classifier", 1024, 4),
        ("timm:convnext_atto", 64, "head.fc", 320, 4),
        ("timm:resnetv2_18", 64, "head.fc", 512, 4),  # whose head is a convolution by itself
    ],
)
def test_networks_by_name_give_what_their_library_gives(architecture, side, head, features, stages):
    model = built(architecture, input_side=side)
    library, name = architecture.split(":")
    if library == "timm":
        fixed = {"img_size": side} if "vit" in name else {}
        plain = timm.create_model(name, num_classes=5, **fixed)
    else:
        plain = torchvision.models.get_model(name, num_classes=5)
    plain.load_state_dict(model.network.state_dict())
    images = torch.rand(2, 40, 50, 3, generator=NOISE)
    given = model.prepared(model.normalise(images))
    assert given.shape == (2, 3, side, side)
    with torch.no_grad():
        evidence = model(model.normalise(images), (FEATURES, FEATURE_MAPS))
        expected = plain.eval()(given)
    torch.testing.assert_close(evidence.logits[:, :, 0, 0], expected)
    assert evidence.features.shape == (2, features, 1, 1)
    found = torch.einsum(
        "cd,bd->bc", plain.get_submodule(head).weight.flatten(1), evidence.features[..., 0, 0]
    )
    torch.testing.assert_close(
        found + plain.get_submodule(head).bias, expected, rtol=1e-4, atol=1e-4
    )
    assert [x.shape[2:] for x in evidence.maps] == [(1, 1)] * (stages + 1)
    assert not model.training


def test_stages_of_a_resnet_are_its_four_layers(resnet):
    # At 32 pixels the fourth is one cell, of which the features are the mean.
    assert resnet.stages == ["relu", "layer1", "layer2", "layer3"]
    larger = ClassificationModel(resnet.network, spec_of("torchvision:resnet18", input_side=64))
    assert larger.stages == ["layer1", "layer2", "layer3", "layer4"]
    images = torch.randn(2, 3, 64, 64, generator=NOISE)
    maps = larger.eval()(images, (FEATURE_MAPS,)).maps
    images = larger.prepared(images)
    with torch.no_grad():
        x = resnet.network.maxpool(
            resnet.network.relu(resnet.network.bn1(resnet.network.conv1(images)))
        )
        for got, layer in zip(maps, ("layer1", "layer2", "layer3", "layer4"), strict=False):
            x = getattr(resnet.network, layer)(x)
            torch.testing.assert_close(got, x.mean((2, 3), keepdim=True))
    assert len(maps) == 5
    assert larger.add_loss_prediction(0)([x[:, :, 0, 0] for x in maps]).shape == (2,)


def test_a_small_stem_keeps_small_images_large():
    model = built("torchvision:resnet18", options={"stem": "cifar"})
    assert model.spec.framing is None
    first = model.network.conv1
    assert (first.kernel_size, first.stride, first.padding) == ((3, 3), (1, 1), (1, 1))
    seen = []
    model.network.layer4.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[-1]))
    model(torch.randn(1, 3, 32, 32, generator=NOISE))
    assert seen == [4]
    assert model.spec.as_dict()["options"] == {"stem": "cifar"}
    assert "framing" not in model.spec.as_dict()


@pytest.mark.parametrize("size", [(37, 61), (300, 200), (48, 48), (257, 256)])
def test_images_are_framed_as_torchvision_frames_them(size):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=NOISE)
    for bicubic, mode in ((False, "bilinear"), (True, "bicubic")):
        model = framing_model(Framing(40, 46, bicubic))
        oracle = v2.Compose(
            [
                v2.ToDtype(torch.float32, scale=True),
                v2.Resize(46, interpolation=v2.InterpolationMode(mode), antialias=True),
                v2.CenterCrop(40),
                v2.Lambda(lambda x: x.clamp(0, 1)),  # as of images of 8 bits
                v2.Normalize(model.spec.mean, model.spec.std),
            ]
        )
        got = model.prepared(model.normalise(image.permute(1, 2, 0)[None]))[0]
        torch.testing.assert_close(got, oracle(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "tf_efficientnet_lite0",
        "convnext_base.clip_laion2b_augreg_ft_in12k_in1k",
    ],
)
def test_images_are_framed_as_timm_frames_them(name):
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    oracle = timm.data.create_transform(**config)
    spec = spec_of(f"timm:{name}")
    model = framing_model(spec.framing, mean=spec.mean, std=spec.std)
    rng = np.random.default_rng(0)
    for height, width in ((301, 260), (180, 333)):
        smooth = rng.integers(60, 196, (height // 4, width // 4, 3), dtype=np.uint8)
        image = np.asarray(
            Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC)
        )
        got = model.prepared(model.normalise(torch.from_numpy(image.copy())[None]))[0]
        expected = oracle(Image.fromarray(image))
        assert got.shape == expected.shape
        # Pillow rounds to 8 bits after each of its two passes.
        difference = (got - expected).abs() * torch.tensor(config["std"])[:, None, None] * 255
        assert difference.max() < 1.6
        assert difference.mean() < 0.4


def framing_model(framing, **given):
    spec = tiny_classifier.make_spec(framing=framing, **given)
    return ClassificationModel(tiny_classifier.build(4), spec)


def test_every_published_transform_of_torchvision_is_found():
    for name in ("resnet18", "vit_b_16", "efficientnet_b0", "inception_v3", "swin_t"):
        transform = torchvision.models.get_model_weights(name)["DEFAULT"].transforms()
        spec = spec_of(f"torchvision:{name}")
        framing = spec.framing
        assert (framing.side, framing.resized) == (transform.crop_size[0], transform.resize_size[0])
        assert framing.bicubic == (transform.interpolation.value == "bicubic")
        assert (spec.mean, spec.std) == (tuple(transform.mean), tuple(transform.std))


@pytest.mark.parametrize(
    ("architecture", "task", "expected"),
    [
        ("torchvision:deeplabv3_resnet50", "classification", "torchvision:resnet18"),
        ("DeepLabV3Plus", "classification", "timm:NAME"),
        ("torchvision:resnet18", "segmentation", "torchvision:deeplabv3_resnet50"),
        ("timm:vit_tiny_patch16_224", "segmentation", "DeepLabV3Plus"),
        ("hf:segformer", "multilabel", "package.module:name"),
    ],
)
def test_networks_of_another_task_are_refused(architecture, task, expected):
    with pytest.raises(SegalError) as caught:
        make_spec(architecture, "resnet18", NAMES, task=task)
    assert "a network that classifies" in caught.value.problem
    assert expected in caught.value.expected
    assert "task: " in caught.value.remedy


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"architecture": "torchvision:resnet19"}, "did you mean 'torchvision:resnet18'?"),
        (
            {"architecture": "timm:vit_tiny_patch16_223"},
            "did you mean 'timm:vit_tiny_patch16_224'?",
        ),
        ({"architecture": "timm:hf-hub:someone/net"}, "unknown architecture"),
        ({"architecture": "torchvision:vgg11", "options": {"stem": "cifar"}}, "no such option"),
        ({"architecture": "torchvision:resnet18", "options": {"stem": "big"}}, "stem"),
        (
            {"architecture": "torchvision:resnet18", "options": {"weights": "x"}},
            "nothing is downloaded",
        ),
        (
            {"architecture": "timm:resnet18", "options": {"pretrained": True}},
            "nothing is downloaded",
        ),
        ({"architecture": "torchvision:resnet18", "input_scale": 0.5}, "input_scale"),
        ({"architecture": "torchvision:resnet18", "input_side": 5000}, "input_side"),
        ({"architecture": "linear"}, "input_channels"),
        ({"architecture": "torchvision:resnet18", "input_channels": 3}, "input_channels"),
        ({"architecture": "torchvision:resnet18", "class_names": ("one",)}, "at least two classes"),
    ],
)
def test_what_cannot_be_built_is_refused(given, text):
    with pytest.raises(SegalError) as caught:
        spec_of(**given)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "architecture",
    [
        *("torchvision:resnet18", "torchvision:fcn_resnet50", "timm:resnet18"),
        *("tests.tiny_classifier:build", "hf:segformer"),
    ],
)
@pytest.mark.parametrize("section", [ModelConfig, NetworkConfig])
def test_an_encoder_is_named_where_there_is_one_to_choose(section, architecture):
    with pytest.raises(ValidationError, match="no encoder"):
        section(architecture=architecture, encoder="resnet50")
    with pytest.raises(SegalError, match="no encoder"):
        check_encoder(architecture, "resnet50")
    # Run folders keep that there is none.
    assert section(architecture=architecture, encoder="").encoder == ""
    assert section(architecture="Unet", encoder="resnet50").encoder == "resnet50"


def test_a_linear_layer_has_an_encoder_for_pixels_and_none_on_tables():
    check_encoder("linear", "resnet50", "segmentation")
    for task in ("classification", "multilabel"):
        with pytest.raises(SegalError, match="no encoder"):
            check_encoder("linear", "resnet50", task)


def test_a_file_that_has_no_encoder_refuses_one(resnet, tmp_path):
    save_checkpoint(resnet, tmp_path / "own.safetensors")
    save_file(resnet.network.state_dict(), tmp_path / "plain.safetensors")
    for name, given in (
        ("own", {}),
        ("plain", {"architecture": "torchvision:resnet18", "num_classes": 5}),
    ):
        options = CheckpointOptions(encoder="resnet50", task="classification", **given)
        with pytest.raises(SegalError, match="no encoder"):
            load_checkpoint(tmp_path / f"{name}.safetensors", options)


@pytest.mark.parametrize(
    ("task", "of", "each", "dims", "elements"),
    [
        ("segmentation", "pixels", False, 4, 3),
        ("classification", "images", False, 2, 3),
        ("multilabel", "images", True, 2, 2),
    ],
)
def test_what_networks_answer_is_said_by_their_task(task, of, each, dims, elements):
    spec = tiny_classifier.make_spec(task, class_names=("a", "b", "c"))
    assert spec.answers == answers_of(task) == Answers(of, each)
    assert (spec.logit_dims, spec.element_classes) == (dims, elements)


def test_a_task_of_another_package_is_known_by_what_its_networks_answer(monkeypatch):
    """A task that registers what its networks answer needs nothing else of any source."""
    monkeypatch.setitem(ANSWERS._entries, "ordering", Answers("images", each=True))
    for name in ("torchvision:resnet18", "timm:resnet18", "tests.tiny_classifier:build"):
        spec = make_spec(name, None, ("one",), task="ordering")
        assert (spec.encoder, spec.logit_dims, spec.element_classes) == ("", 2, 2)
    with pytest.raises(SegalError, match="a network that classifies pixels"):
        make_spec("Unet", None, NAMES, task="ordering")
    with pytest.raises(SegalError, match="unknown task 'sorting'"):
        make_spec("Unet", None, NAMES, task="sorting")


def test_pixels_take_no_side():
    with pytest.raises(SegalError, match="input_side"):
        make_spec("Unet", "resnet18", NAMES, input_side=224)


def test_features_in_a_table_are_classified_by_a_linear_layer(tmp_path):
    model = built("linear", input_channels=9)
    table = torch.randn(4, 1, 1, 9, generator=NOISE)
    evidence = model(model.normalise(table), (FEATURES,))
    torch.testing.assert_close(evidence.features[..., 0, 0], table[:, 0, 0])
    with torch.no_grad():
        expected = nn.functional.linear(table[:, 0, 0], *model.network.state_dict().values())
    torch.testing.assert_close(evidence.logits[:, :, 0, 0], expected)
    stored = model.spec.as_dict()
    assert (stored["mean"], stored["std"], stored["input_channels"]) == ((0.0,), (1.0,), 9)
    save_checkpoint(model, tmp_path / "m.safetensors")
    again = load_checkpoint(tmp_path / "m.safetensors", CheckpointOptions(task="classification"))
    assert again.spec == model.spec
    torch.testing.assert_close(again(model.normalise(table)).logits, evidence.logits)


def test_the_head_is_a_convolution_that_files_know_as_linear():
    torch.manual_seed(1)
    plain = tiny_classifier.build(4)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    images = torch.randn(3, 3, 12, 12, generator=NOISE)
    expected = plain.eval()(images)
    model = ClassificationModel(plain, tiny_classifier.make_spec())
    assert type(model.head) is nn.Conv2d
    assert isinstance(model.network.classifier[1], PointwiseHead)
    torch.testing.assert_close(model.network(images), expected)
    state = model.network.state_dict()
    assert list(state) == list(before)
    assert all(torch.equal(state[name], value) for name, value in before.items())
    tiny_classifier.build(4).load_state_dict(state)
    # The state's tensors are the parameters' own, as those of any module are.
    state["classifier.1.weight"].zero_()
    assert not model.head.weight.any()
    model.network.load_state_dict(before)
    torch.testing.assert_close(copy.deepcopy(model).network(images), expected)
    assert copy.deepcopy(model).network.state_dict().keys() == before.keys()
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.network.load_state_dict({**before, "classifier.1.weight": torch.zeros(5, 7)})
    with pytest.raises(RuntimeError, match=r"Missing key"):
        model.network.load_state_dict({k: v for k, v in before.items() if k != "classifier.1.bias"})


def test_presenting_a_head_draws_no_random_number():
    torch.manual_seed(3)
    network = tiny_classifier.build(4)
    state = torch.get_rng_state()
    ClassificationModel(network, tiny_classifier.make_spec()).check()
    assert torch.equal(torch.get_rng_state(), state)


class Returns(nn.Module):
    """A tiny network that returns its logits in another form."""

    def __init__(self, form):
        super().__init__()
        self.inner, self.form = tiny_classifier.build(4), form

    def forward(self, images):
        return self.form(self.inner(images))


@pytest.mark.parametrize(
    "form",
    [
        lambda z: {"logits": z},
        lambda z: (z, torch.zeros(len(z), 9)),
        lambda z: torchvision.models.inception.InceptionOutputs(z, z + 1),
    ],
)
def test_logits_in_other_forms(form):
    model = ClassificationModel(Returns(form), tiny_classifier.make_spec()).eval()
    model.check()
    assert model.has_head
    images = torch.randn(2, 3, 12, 12, generator=NOISE)
    torch.testing.assert_close(model(images).logits[:, :, 0, 0], model.network.inner(images))


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        (lambda z: z.softmax(1), "probabilities"),
        (lambda z: z[:, :3], "3 outputs for 4 classes"),
        (lambda z: z[:, :, None, None], "no logits"),
    ],
)
def test_what_gives_no_logits_is_refused(form, problem):
    model = ClassificationModel(Returns(form), tiny_classifier.make_spec())
    with pytest.raises(SegalError, match=problem):
        model.check()


def test_probabilities_of_several_labels_are_refused():
    spec = tiny_classifier.make_spec("multilabel")
    with pytest.raises(SegalError, match="probabilities"):
        check_network(Returns(torch.sigmoid), spec)
    check_network(Returns(lambda z: z), spec)


class Tied(nn.Module):
    """A network whose last layer shares its weight with another."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last.weight = self.first.weight

    def forward(self, images):
        return self.last(self.first(images.mean((2, 3)).repeat(1, 2)[:, :4]))


@pytest.mark.parametrize(
    "network",
    [
        Returns(lambda z: z.log_softmax(1)),
        Returns(lambda z: 2 * z),
        Tied(),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),  # SqueezeNet's
    ],
)
def test_a_network_without_a_last_layer_gives_logits_alone(network):
    model = ClassificationModel(network, tiny_classifier.make_spec()).eval()
    images = torch.randn(2, 3, 12, 12, generator=NOISE)
    assert model(images).logits.shape == (2, 4, 1, 1)
    with pytest.raises(NoHeadError, match="no last layer"):
        model.check_features()
    with pytest.raises(NoHeadError, match="no last layer"):
        model(images, ("last",))


def test_one_output_for_two_classes():
    spec = tiny_classifier.make_spec(class_names=("no", "yes"))
    torch.manual_seed(0)
    model = ClassificationModel(tiny_classifier.build(1), spec).eval()
    images = torch.randn(2, 3, 12, 12, generator=NOISE)
    evidence = model(images, ("last",))
    z = model.network(images)
    torch.testing.assert_close(evidence.logits[:, :, 0, 0], torch.cat([torch.zeros_like(z), z], 1))
    low = model.tail("last").low(evidence.tail_input["last"], model.tail("last").parameters)
    torch.testing.assert_close(low, evidence.logits)


def test_sizes_are_checked_before_work_starts():
    model = framing_model(Framing(32, 32))
    check_image_sizes(model, [(5, 700), (1000, 3)])
    vit = built("timm:vit_tiny_patch16_224", input_side=32)
    bare = ClassificationModel(vit.network, dataclasses.replace(vit.spec, framing=None))
    with pytest.raises(SegalError, match="does not run at 40 x 40"):
        check_image_sizes(bare, [(32, 32), (40, 40)])


def test_checkpoints_come_back(resnet, tmp_path):
    path = tmp_path / "m.safetensors"
    save_checkpoint(resnet, path)
    options = CheckpointOptions(task="classification")
    again = load_checkpoint(path, options)
    assert again.spec == resnet.spec
    assert again.spec.framing == Framing(32, 36)
    images = torch.randn(1, 3, 50, 40, generator=NOISE)
    assert torch.equal(again(images).logits, resnet(images).logits)
    torchvision.models.resnet18(num_classes=5).load_state_dict(load_file(path))
    other = load_checkpoint(path, dataclasses.replace(options, input_side=0))
    assert other.spec.framing is None
    with pytest.raises(SegalError, match="of another task") as caught:
        load_checkpoint(path, CheckpointOptions(task="segmentation"))
    assert "task: classification" in caught.value.remedy


def test_a_state_dict_of_the_library_loads(resnet, tmp_path):
    torch.manual_seed(5)
    plain = torchvision.models.resnet18(num_classes=5)
    torch.save({"epoch": 3, "model": plain.state_dict()}, tmp_path / "r.pth")
    model = load_checkpoint(
        tmp_path / "r.pth",
        CheckpointOptions("torchvision:resnet18", num_classes=5, task="classification"),
    )
    images = torch.randn(1, 3, 224, 224, generator=NOISE)
    torch.testing.assert_close(model.network(images), plain.eval()(images))


@pytest.mark.parametrize("head", ["other", "absent"])
def test_published_weights_start_other_classes_without_their_head(head, tmp_path):
    torch.manual_seed(5)
    plain = torchvision.models.mobilenet_v2(num_classes=1000)
    state = {
        k: v for k, v in plain.state_dict().items() if head == "other" or "classifier" not in k
    }
    save_file(state, tmp_path / "w.safetensors")
    torch.manual_seed(0)
    spec = spec_of("torchvision:mobilenet_v2", input_side=32)
    model = build_model(spec, tmp_path / "w.safetensors")
    own = model.network.state_dict()
    assert all(torch.equal(own[k], v) for k, v in state.items() if "classifier" not in k)
    assert own["classifier.1.weight"].shape == (5, 1280)
    assert isinstance(model.network.classifier[1], PointwiseHead)
    assert model.has_head
    said = "w.safetensors: the weights under 'features'"
    assert model.notes == [said + ("; left out: classifier." if head == "other" else ".")]
    # The head starts as that of a network without weights does.
    assert torch.equal(own["classifier.1.weight"], built_head(spec))


def built_head(spec):
    torch.manual_seed(0)
    return build_model(spec).network.state_dict()["classifier.1.weight"]


def test_names_in_published_files_are_brought_up_to_date(tmp_path):
    """As torchvision's own loaders rename them: its DenseNet and its ViT of 2022."""
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 16, 2, 2, 8, 16, num_classes=5)
    old = {
        k.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): v
        for k, v in vit.state_dict().items()
    }
    assert old.keys() != vit.state_dict().keys()
    save_file(old, tmp_path / "vit.safetensors")
    torch.manual_seed(1)
    network = torchvision.models.VisionTransformer(32, 16, 2, 2, 8, 16, num_classes=5)
    model = ClassificationModel(network, tiny_classifier.make_spec(class_names=NAMES))
    stored = read_tensors(tmp_path / "vit.safetensors")
    notes = model.load_encoder(stored, tmp_path / "vit.safetensors", None)
    assert "names of an older version changed" in notes[0]
    assert torch.equal(network.encoder.layers[1].mlp[3].weight, vit.encoder.layers[1].mlp[3].weight)
    densenet = torchvision.models.DenseNet(4, (2, 2), 8, num_classes=5)
    old = {
        k.replace("norm1.", "norm.1.")
        .replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2."): v
        for k, v in densenet.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    save_file(old, tmp_path / "d.safetensors")
    network = torchvision.models.DenseNet(4, (2, 2), 8, num_classes=5)
    model = ClassificationModel(network, tiny_classifier.make_spec(class_names=NAMES))
    model.load_encoder(read_tensors(tmp_path / "d.safetensors"), tmp_path / "d.safetensors", None)
    layer = "features.denseblock2.denselayer1.conv2"
    assert torch.equal(network.get_submodule(layer).weight, densenet.get_submodule(layer).weight)


def test_hostile_metadata_are_refused(resnet, tmp_path):
    path = tmp_path / "m.safetensors"
    for change in (
        {"framing": {"side": 10**9, "resized": 10**9}},
        {"framing": {"side": 8, "resized": 4}},
        {"framing": "large"},
        {"input_channels": 10**12},
        {"task": "detection"},
        {"architecture": "timm:hf-hub:a/b"},
    ):
        metadata = json.dumps({"spec": {**resnet.spec.as_dict(), **change}})
        save_file({"x": torch.zeros(1)}, path, {"segal": metadata})
        with pytest.raises(SegalError, match="metadata are"):
            load_checkpoint(path, CheckpointOptions(task="classification"))


def test_specifications_of_pixels_are_stored_as_ever():
    spec = make_spec("Unet", "resnet18", NAMES)
    assert set(spec.as_dict()) == {
        *("architecture", "encoder", "class_names", "mean", "std", "stride", "input_scale")
    }
    assert ModelSpec(**spec.as_dict()) == spec
