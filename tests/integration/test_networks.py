"""Networks by name and by folder, from the command line."""

import json

import pytest
import segmentation_models_pytorch as smp
import torch
import yaml

from segal.models.build import build_model, make_spec
from segal.models.checkpoint import load_checkpoint, read_spec, save_checkpoint
from segal.scenes.synthetic import make_scenes
from segal.system import machine
from tests.conftest import CLASSES

ENTROPY = ("--strategy", "entropy", "--region", "32", "--budget", "5", "overlays=0")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "scenes"
    make_scenes(root, splits={"train": 2, "val": 1}, size=(64, 128), seed=0)
    return root


def picks(folder):
    return (folder / "selection.csv").read_bytes()


def test_folder_and_options_of_smp_give_the_picks_of_the_same_network(
    segal, image_folder, tmp_path
):
    torch.manual_seed(0)
    options = {"encoder_output_stride": 8, "decoder_atrous_rates": [2, 4, 6]}
    network = smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=5, **options)
    network.save_pretrained(tmp_path / "smp")
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    of_folder = ("--checkpoint", tmp_path / "smp")
    of_options = (
        *("--checkpoint", tmp_path / "plain.pth", "--arch", "DeepLabV3Plus", "--num-classes", 5),
        *("model.options.encoder_output_stride=8", "model.options.decoder_atrous_rates=[2, 4, 6]"),
    )
    for name, network_of in (("a", of_folder), ("b", of_options)):
        code, _, said = segal(
            *("select", *network_of, "--images", image_folder, "--out", tmp_path / name, *ENTROPY)
        )
        assert code == 0, said
        assert "mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225" in " ".join(said.split())
    assert picks(tmp_path / "a") == picks(tmp_path / "b")
    summary = json.loads((tmp_path / "b" / "summary.json").read_text())
    assert summary["network"]["mean"] == [0.485, 0.456, 0.406]
    assert summary["network"]["options"] == options


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.options.encoder_output_strid=8", "did you mean 'encoder_output_stride'"),
        ("model.options.decoder_channels=[1", "a value as YAML has it"),
        ("model.options.aux_params={classes: 3}", "auxiliary classification"),
    ],
)
def test_options_that_are_wrong(segal, image_folder, checkpoint, tmp_path, override, message):
    code, _, said = segal(
        *("select", "--checkpoint", checkpoint, "--images", image_folder),
        *("--out", tmp_path / "out", *ENTROPY, override),
    )
    assert code == 2
    assert message in " ".join(said.split())
    assert not (tmp_path / "out").exists()


def test_images_too_small_for_the_network_are_refused_first(segal, image_folder, tmp_path):
    path = tmp_path / "pan.safetensors"
    save_checkpoint(build_model(make_spec("PAN", "resnet18", CLASSES)), path)
    for command in (("select", "--out", tmp_path / "out"), ("plan",)):
        code, _, said = segal(
            *(*command, "--checkpoint", path, "--images", image_folder),
            *("--strategy", "entropy", "--region", "32", "--budget", "5"),
        )
        assert code == 2
        assert "sides of at least 128 pixels" in " ".join(said.split())
    assert not list(tmp_path.rglob("*.npy"))


def test_plan_says_what_the_network_is_fed_and_what_half_precision_costs(
    segal, image_folder, checkpoint, monkeypatch
):
    arguments = ("plan", "--checkpoint", checkpoint, "--images", image_folder, *ENTROPY)
    said = {}
    for flags in ("avx2", "avx512_bf16"):
        monkeypatch.setattr(machine, "_cpu_flags", lambda flags=flags: frozenset({flags}))
        code, said[flags], errors = segal(*arguments, "precision=bf16")
        assert code == 0, errors
        assert "normalised with mean 0.485, 0.456, 0.406" in said[flags]
    assert "11 times slower than fp32" in said["avx2"]
    assert "slower" not in said["avx512_bf16"]


def test_a_segformer_from_its_configuration_is_trained_and_selects(
    segal, scenes, image_folder, tmp_path
):
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 2],
        decoder_hidden_size=16,
    )
    config.save_pretrained(tmp_path / "hf")
    processor = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(processor))
    trained = tmp_path / "trained"
    arguments = (
        *("train", "--arch", f"hf:{tmp_path / 'hf'}", "--data", scenes, "--out", trained),
        *("--iterations", 2, "--crop", 64, "train.batch_size=2", "train.validate_every=0"),
    )
    code, _, said = segal(*arguments)
    assert code == 0, said
    spec = read_spec(trained / "model.safetensors")
    assert (spec.architecture, spec.mean) == ("hf:segformer", (0.4, 0.5, 0.6))
    before = (trained / "model.safetensors").read_bytes()
    assert segal(*arguments)[0] == 0  # done already
    assert (trained / "model.safetensors").read_bytes() == before
    again = yaml.safe_load((trained / "config.yaml").read_text()) | {"out": str(tmp_path / "two")}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(again))
    assert segal("train", "--config", tmp_path / "again.yaml")[0] == 0
    assert (tmp_path / "two" / "model.safetensors").read_bytes() == before

    code, _, said = segal(
        *("select", "--checkpoint", trained / "model.safetensors", "--images", image_folder),
        *("--out", tmp_path / "picked", "--strategy", "uwe", "--region", "32", "--budget", "5"),
    )
    assert code == 0, said
    assert "mean 0.4, 0.5, 0.6" in " ".join(said.split())


def test_a_folder_of_transformers_selects_and_starts_a_training(
    segal, scenes, image_folder, tmp_path
):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 2],
        decoder_hidden_size=16,
        id2label={0: "road", 1: "sky"},
    )
    folder = tmp_path / "hf"
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    for name, network in (
        ("a", ("--arch", f"hf:{folder}")),
        ("b", ("--checkpoint", folder)),
    ):
        code, _, said = segal(
            *("select", *network, "--images", image_folder, "--out", tmp_path / name, *ENTROPY)
        )
        assert code == 0, said
    assert picks(tmp_path / "a") == picks(tmp_path / "b")
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["network"]["class_names"] == ["road", "sky"]
    code, _, said = segal(
        *("train", "--arch", f"hf:{folder}", "--data", scenes, "--out", tmp_path / "trained"),
        *("--iterations", 1, "--crop", 64, "train.batch_size=2", "train.validate_every=0"),
    )
    assert code == 0, said
    assert "2 tensors have no fitting weights there and start at random" in " ".join(said.split())
    names = read_spec(tmp_path / "trained" / "model.safetensors").class_names
    assert len(names) > 2


def test_one_output_of_smp_is_the_second_of_two_classes(segal, image_folder, tmp_path):
    torch.manual_seed(0)
    network = smp.Unet("resnet18", encoder_weights=None, classes=1).eval()
    network.save_pretrained(tmp_path / "smp")
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    plain = (*("--checkpoint", tmp_path / "plain.pth", "--arch", "Unet"), "--num-classes", 2)
    given = ("--images", image_folder, *ENTROPY)
    code, _, said = segal("select", *plain, *given, "--out", tmp_path / "a")
    assert code == 2
    assert "model.options.classes=1" in " ".join(said.split())
    for name, of in {
        "a": (*plain, "model.options.classes=1"),
        "b": ("--checkpoint", tmp_path / "smp"),
    }.items():
        code, _, said = segal("select", *of, *given, "--out", tmp_path / name)
        assert code == 0, said
    assert picks(tmp_path / "a") == picks(tmp_path / "b")
    model = load_checkpoint(tmp_path / "smp")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        second = model(images).logits.softmax(1)[:, 1]
        torch.testing.assert_close(second, network(images)[:, 0].sigmoid())
    save_checkpoint(model, tmp_path / "own.safetensors")
    assert load_checkpoint(tmp_path / "own.safetensors").spec == model.spec
