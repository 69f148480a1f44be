"""Networks by name: constants, options, and the sides of their input."""

import json

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from segal.errors import SegalError, SegalErrors
from segal.models.build import build_model, build_network, check_image_sizes, make_spec
from segal.models.checkpoint import CheckpointOptions, load_checkpoint, read_spec, save_checkpoint
from segal.models.normalisation import published
from segal.models.probing import failure, find_multiple
from segal.models.sources import source_of
from segal.models.spec import ModelSpec

CLASSES = ("road", "car", "sky")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)
DPN = ((0.48627450980392156, 0.4588235294117647, 0.40784313725490196), (0.23482446870963955,) * 3)
# smp 0.3.4, the last release that keeps the constants of its encoders beside their names, in
# `encoders[NAME]["pretrained_settings"]`: all that are not ImageNet's, of each first weights.
OF_SMP = {
    **dict.fromkeys(("dpn68", "dpn68b", "dpn92", "dpn98", "dpn107", "dpn131"), DPN),
    **dict.fromkeys(("inceptionresnetv2", "inceptionv4", "xception"), HALF),
    **{f"timm-tf_efficientnet_lite{i}": HALF for i in range(5)},
}


def close(a, b):
    return all(x == pytest.approx(y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("encoder", smp.encoders.get_encoder_names())
def test_constants_of_smp_are_those_published(encoder):
    assert close(published(encoder), OF_SMP.get(encoder, IMAGENET))


def test_constants_of_timm_are_those_published():
    names = timm.list_models(pretrained=True) + timm.list_pretrained()
    assert len(names) > 1000
    for name in names:
        stated = smp.encoders.get_preprocessing_params(f"tu-{name}")
        assert (stated["input_space"], stated["input_range"]) == ("RGB", [0, 1])
        assert close(published(f"tu-{name}"), (tuple(stated["mean"]), tuple(stated["std"]))), name


def test_constants_follow_the_tag_and_are_kept():
    names = ("tu-vit_base_patch16_224.augreg_in21k", "tu-vit_base_patch16_224.dino")
    assert [published(name) for name in names] == [HALF, IMAGENET]
    spec = make_spec("Unet", "timm-tf_efficientnet_lite0", CLASSES)
    assert (spec.mean, spec.std) == HALF
    assert "mean 0.5, 0.5, 0.5 and std 0.5, 0.5, 0.5" in spec.input_line


def test_a_tag_that_timm_does_not_know():
    with pytest.raises(SegalError, match=r"unknown encoder 'tu-resnet18\.nope'"):
        make_spec("Unet", "tu-resnet18.nope", CLASSES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("timm-resnest14d", "tu-resnest14d"),
        ("timm-mobilenetv3_small_100", "tu-tf_mobilenetv3_small_100"),
        ("timm-gernet_s", "tu-gernet_s"),
        ("timm-skresnet18", "timm-skresnet18"),
    ],
)
def test_encoders_that_were_renamed(old, new):
    assert make_spec("Unet", old, CLASSES).encoder == new
    assert type(smp.encoders.get_encoder(old, weights=None)).__name__ == (
        "TimmUniversalEncoder" if new.startswith("tu-") else "SkNetEncoder"
    )


def test_options_reach_the_constructor(tmp_path):
    options = {
        "encoder_output_stride": 8,
        "decoder_channels": 32,
        "decoder_atrous_rates": [2, 4, 6],
    }
    spec = make_spec("DeepLabV3Plus", "resnet18", CLASSES, options=options)
    model = build_model(spec).eval()
    assert model.network.encoder.output_stride == 8
    assert model.head.in_channels == 32
    theirs = smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=3, **options)
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {
        k: v.shape for k, v in model.network.state_dict().items()
    }
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path)
    assert read_spec(path) == model.spec
    assert load_checkpoint(path).network.encoder.output_stride == 8
    given = CheckpointOptions(options={"encoder_output_stride": 8})
    assert load_checkpoint(path, given).spec == model.spec


@pytest.mark.parametrize(
    ("architecture", "name", "value", "message"),
    [
        ("Unet", "encoder_output_stride", 8, "Unet with resnet18 takes no such option"),
        ("DeepLabV3Plus", "encoder_outputstride", 8, "did you mean 'encoder_output_stride'"),
        ("Unet", "activation", "softmax", "scores are taken from logits"),
        ("Unet", "aux_params", {}, "auxiliary classification"),
        ("Unet", "encoder_weights", "imagenet", "nothing is downloaded"),
        ("Unet", "classes", 3, "give --num-classes"),
        ("Unet", "in_channels", 3, "--mean and --std"),
        ("Unet", "checkpoint_path", "x.pth", "takes no such option"),
        ("Unet", "decoder_channels", [10**9] * 5, "cannot be used"),
        ("Unet", "decoder_channels", float("nan"), "cannot be used"),
        ("torchvision:fcn_resnet50", "aux_loss", True, "auxiliary classification"),
        ("torchvision:fcn_resnet50", "anything", 1, "takes no such option"),
    ],
)
def test_options_that_are_not_taken(architecture, name, value, message):
    with pytest.raises((SegalError, SegalErrors), match=message):
        make_spec(architecture, "resnet18", CLASSES, options={name: value})


def test_options_that_the_constructor_refuses():
    spec = make_spec("DeepLabV3", "resnet18", CLASSES, options={"encoder_output_stride": 7})
    with pytest.raises(SegalError, match=r"support output stride 8 or 16, got 7"):
        build_model(spec)


@pytest.mark.parametrize("name", ["fcn_resnet50", "lraspp_mobilenet_v3_large"])
def test_torchvision_by_name(name):
    spec = make_spec(f"torchvision:{name}", class_names=CLASSES)
    assert (spec.mean, spec.std) == IMAGENET
    theirs = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=3)
    network = build_network(spec)
    assert network.state_dict().keys() == theirs.state_dict().keys()


def test_torchvision_of_no_such_name():
    with pytest.raises(SegalError, match="did you mean 'torchvision:fcn_resnet50'"):
        make_spec("torchvision:fcn_resnet5", class_names=CLASSES)


# One output.


@pytest.mark.parametrize("kind", ["smp", "torchvision"])
def test_one_output_of_two_classes(kind, tmp_path):
    torch.manual_seed(0)
    if kind == "smp":
        theirs = smp.Unet("resnet18", encoder_weights=None, classes=1, decoder_channels=[8] * 5)
        given = {"architecture": "Unet", "encoder": "resnet18"}
        options, one = {"decoder_channels": [8] * 5}, {"classes": 1}
    else:
        name = "lraspp_mobilenet_v3_large"
        theirs = torchvision.models.get_model(name, weights_backbone=None, num_classes=1)
        given = {"architecture": f"torchvision:{name}"}
        options, one = {}, {"num_classes": 1}
    path = tmp_path / "model.pth"
    torch.save(theirs.state_dict(), path)
    given["num_classes"] = 2
    if kind == "smp":  # torchvision's has two layers of classes
        with pytest.raises(SegalError, match=r"model\.options\.classes=1"):
            load_checkpoint(path, CheckpointOptions(**given, options=options))
    model = load_checkpoint(path, CheckpointOptions(**given, options=options | one))
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = theirs.eval()(images)
        z = z if isinstance(z, torch.Tensor) else z["out"]
        assert torch.equal(model(images).logits, torch.cat([torch.zeros_like(z), z], 1))
    save_checkpoint(model, tmp_path / "again.safetensors")
    assert load_checkpoint(tmp_path / "again.safetensors").spec == model.spec


def test_folder_of_smp_of_one_output(tmp_path):
    theirs = smp.DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=1).eval()
    theirs.save_pretrained(tmp_path)
    model = load_checkpoint(tmp_path)
    assert model.spec.class_names == ("class 0", "class 1")
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = theirs(images)
        logits = model(images).logits
    torch.testing.assert_close(logits, torch.cat([torch.zeros_like(z), z], 1), rtol=1e-4, atol=1e-5)
    assert model.has_head


# The sides of the input.


def multiple_of(architecture, encoder, **options):
    spec = make_spec(architecture, encoder, CLASSES, options=options)
    network = build_network(spec)
    sides = source_of(architecture).sides(network, spec)
    return network, find_multiple(network, 3, sides.multiples, sides.fixed, spec.title)


@pytest.mark.parametrize(
    ("architecture", "encoder", "multiple"),
    [
        ("DPT", "tu-vit_tiny_patch16_224", 32),
        ("UPerNet", "tu-swin_tiny_patch4_window7_224", 32),
        pytest.param("Unet", "tu-maxvit_rmlp_pico_rw_256", 256, marks=pytest.mark.slow),
    ],
)
def test_encoders_of_a_fixed_size_run_at_multiples_of_their_own(architecture, encoder, multiple):
    with pytest.raises(Exception, match=r"(?i)size|height|width"):  # as smp alone builds them
        smp.create_model(architecture, encoder, encoder_weights=None)(torch.zeros(1, 3, 96, 160))
    network, found = multiple_of(architecture, encoder)
    assert found == multiple
    with torch.no_grad():
        logits = network.eval()(torch.zeros(1, 3, multiple, 2 * multiple))
    assert logits.shape[-1] == 2 * logits.shape[-2]


def test_an_encoder_told_its_size_and_one_of_no_size():
    options = {"img_size": 64}
    model = build_model(make_spec("Unet", "tu-coatnet_nano_rw_224", CLASSES, options=options))
    assert model.spec.stride == 64
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 60, 50)).logits.shape == (1, 3, 60, 50)
    with pytest.raises(SegalError, match="64 x 64 pixels, which it is bound to"):
        check_image_sizes(model, [(60, 60), (64, 100)])


def test_an_encoder_that_runs_at_no_size():
    with pytest.raises(SegalError, match="runs at no size that was tried"):
        multiple_of("DPT", "tu-vit_small_patch14_dinov2")


def test_a_network_that_refuses_small_images_is_refused_with_the_size_that_it_takes():
    model = build_model(make_spec("PAN", "resnet18", CLASSES)).eval()
    with pytest.raises(RuntimeError):
        model.network(torch.zeros(1, 3, 96, 160))
    with pytest.raises(SegalError, match="sides of at least 128 pixels") as caught:
        check_image_sizes(model, [(200, 300), (90, 150)])
    assert "does not run at 96 x 160 pixels" in str(caught.value)
    check_image_sizes(model, [(200, 300), (128, 150)])
    assert model.network(torch.zeros(1, 3, 128, 160)).shape[-2:] == (128, 160)


def test_a_network_of_squares_is_not_told_for_one_of_large_images():
    model = build_model(make_spec("tests.form_networks:square_only", class_names=CLASSES))
    with pytest.raises(SegalError, match="sizes such as 96 x 96 pixels"):
        check_image_sizes(model, [(60, 90)])


def test_trying_sizes_changes_nothing():
    model = build_model(make_spec("Unet", "tu-mobilenetv3_small_100", CLASSES)).train()
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    drawn = torch.random.get_rng_state()
    assert failure(model.network, 3, (4096, 8192)) is None
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert model.network.training
    assert all(torch.equal(before[k], v) for k, v in model.network.state_dict().items())


# Folders that smp wrote.


@pytest.fixture(scope="module")
def smp_folder(tmp_path_factory):
    torch.manual_seed(0)
    options = {"encoder_output_stride": 8, "decoder_channels": 32}
    aux = {"classes": 4, "dropout": 0.1}
    network = smp.DeepLabV3Plus(
        "resnet18", encoder_weights=None, classes=3, aux_params=aux, **options
    ).eval()
    folder = tmp_path_factory.mktemp("smp") / "network"
    network.save_pretrained(folder)
    return folder, network


def test_folder_of_smp(smp_folder):
    folder, network = smp_folder
    model = load_checkpoint(folder)
    assert isinstance(model.spec, ModelSpec)
    assert model.spec.options["encoder_output_stride"] == 8
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, network(images)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(SegalError, match="another number of classes"):
        load_checkpoint(folder, CheckpointOptions(num_classes=4))
    with pytest.raises(SegalError, match="another encoder"):
        load_checkpoint(folder, CheckpointOptions(encoder="resnet34"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_model_class": "Nothing"}, "unknown architecture 'Nothing'"),
        ({"_model_class": "os:system"}, "your own code"),
        ({"encoder_name": "resnet"}, "unknown encoder 'resnet'"),
        ({"activation": "softmax"}, "ends in an activation"),
        ({"classes": 10**9}, "its classes cannot be used"),
        ({"checkpoint_path": "x"}, "takes no such option"),
    ],
)
def test_folder_of_smp_that_cannot_be_used(smp_folder, tmp_path, change, message):
    config = json.loads((smp_folder[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    save_file(load_file(smp_folder[0] / "model.safetensors"), tmp_path / "model.safetensors")
    with pytest.raises((SegalError, SegalErrors), match=message):
        load_checkpoint(tmp_path)


def test_folder_without_a_network(tmp_path):
    with pytest.raises(SegalError, match=r"a folder without config\.json"):
        load_checkpoint(tmp_path)


class Remembers(nn.Module):
    """Keeps the grid of the last size that it saw."""

    def __init__(self):
        super().__init__()
        self.last, self.grid = nn.Conv2d(4, 2, 1), None

    def forward(self, x):
        if self.grid is None or self.grid.shape[-1] != x.shape[-1]:
            columns = torch.linspace(0, 1, x.shape[-1], device=x.device)
            self.grid = columns.expand(1, 1, *x.shape[-2:])
        return self.last(torch.cat([x, self.grid], 1))


def test_a_trial_of_sizes_leaves_no_trace_in_the_network():
    network = Remembers().train()
    assert failure(network, 3, (32, 48)) is None
    assert network.grid is None
    assert network.training
    assert network(torch.rand(1, 3, 32, 48)).shape == (1, 2, 32, 48)


def test_a_network_that_cannot_be_copied_is_tried_as_it_is():
    network = nn.Sequential(nn.Conv2d(3, 2, 1))
    network.product = network[0].weight * 2  # which torch does not copy
    assert failure(network, 3, (8, 8)) is None
    assert "3 channels, but got 4" in failure(network, 4, (8, 8))
