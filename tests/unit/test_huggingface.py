"""Hugging Face's networks for semantic segmentation, built small from configurations."""

import json
import sys

import pytest
import torch
import torch.nn.functional as F

from segal.errors import SegalError, SegalErrors
from segal.models.build import build_model, build_network, make_spec
from segal.models.checkpoint import (
    CheckpointOptions,
    load_checkpoint,
    load_from_folder,
    read_spec,
    save_checkpoint,
)
from segal.models.probing import failure, find_multiple
from segal.models.sources import source_of
from segal.models.sources.huggingface import SEMANTIC, UNIVERSAL

transformers = pytest.importorskip("transformers")

from tests.small_transformers import CLASSES, written  # noqa: E402


def noise(height, width, batch=2):
    generator = torch.Generator().manual_seed(height + width)
    return torch.randn(batch, 3, height, width, generator=generator)


@pytest.mark.parametrize("kind", sorted(SEMANTIC))
def test_logits_are_the_librarys_spread_to_the_image(kind, tmp_path):
    theirs = written(kind, tmp_path)
    model = load_checkpoint(tmp_path)
    assert model.spec.class_names == CLASSES
    assert model.spec.architecture == f"hf:{kind}"
    images = noise(64, 64)
    with torch.no_grad():
        expected = F.interpolate(theirs(images).logits, (64, 64), mode="bilinear")
        torch.testing.assert_close(model(images).logits, expected, rtol=1e-4, atol=1e-5)
        if kind != "data2vec-vision":  # which is bound to its size
            assert model(noise(50, 90)).logits.shape == (2, 3, 50, 90)
    path = tmp_path / "segal.safetensors"
    save_checkpoint(model, path)
    assert read_spec(path) == model.spec
    (tmp_path / "config.json").unlink()  # the checkpoint needs no folder
    with torch.no_grad():
        assert torch.equal(load_checkpoint(path)(images).logits, model(images).logits)


@pytest.mark.parametrize("kind", sorted(UNIVERSAL))
def test_class_maps_decide_as_the_library_does(kind, tmp_path):
    theirs = written(kind, tmp_path)
    spec = make_spec(f"hf:{tmp_path}")
    ours = build_network(spec).eval()
    ours.model.load_state_dict(theirs.state_dict())
    images = noise(64, 64)
    processor = {
        "eomt": transformers.EomtImageProcessor,
        "maskformer": transformers.MaskFormerImageProcessor,
        "mask2former": transformers.Mask2FormerImageProcessor,
    }[kind]()
    with torch.no_grad():
        outputs, logits = theirs(images), ours(images)
    more = {"size": {"shortest_edge": 64, "longest_edge": 64}} if kind == "eomt" else {}
    if kind == "eomt":
        outputs.patch_offsets = None
    found = processor.post_process_semantic_segmentation(outputs, [(64, 64)] * 2, **more)
    found = torch.stack([getattr(one, "segmentation", one) for one in found])
    assert torch.equal(logits.argmax(1), found)
    assert len(found.unique()) > 1
    # Of two classes, the difference of logits is the log of the ratio of their sums.
    classes = outputs.class_queries_logits.softmax(-1)[..., :-1]
    if kind == "maskformer":
        sums = torch.einsum("bqc,bqhw->bchw", classes, outputs.masks_queries_logits.sigmoid())
        sums = F.interpolate(sums, (64, 64), mode="bilinear")
        torch.testing.assert_close(logits, sums.log(), rtol=1e-4, atol=1e-5)


def test_dpt_takes_images_that_are_not_square(tmp_path):
    """Of 32 x 128 pixels, 2 x 8 patches, its library makes a square map of 4 x 4."""
    theirs = written("dpt", tmp_path)
    network = load_checkpoint(tmp_path).network
    images = noise(32, 128, batch=1)
    with torch.no_grad():
        logits = network(images)
        hidden = theirs.dpt(images, output_hidden_states=True).hidden_states
        told = theirs.head(theirs.neck(list(hidden[1:]), 2, 8))
    expected = F.interpolate(told, (32, 128), mode="bilinear")
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_network_bound_to_its_size(tmp_path):
    written("eomt", tmp_path, weights=False)
    spec = make_spec(f"hf:{tmp_path}")
    network = build_network(spec)
    sides = source_of(spec.architecture).sides(network, spec)
    assert find_multiple(network, 3, sides.multiples, sides.fixed, spec.title) == 64
    assert failure(network, 3, (64, 128)) is not None
    build_model(spec).eval().check()


@pytest.mark.parametrize(
    ("processor", "mean", "std"),
    [
        (None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}, (0.1, 0.2, 0.3), (1, 2, 3)),
        ({"do_normalize": False}, (0, 0, 0), (1, 1, 1)),
        ({"do_normalize": False, "do_rescale": False}, (0, 0, 0), (1 / 255,) * 3),
        (
            {"rescale_factor": 1 / 127.5, "image_mean": [1] * 3, "image_std": [1] * 3},
            (0.5,) * 3,
            (0.5,) * 3,
        ),
        (
            {"image_mean": [0.1, 0.2, 0.3], "do_flip_channel_order": True},
            (0.3, 0.2, 0.1),
            (0.225, 0.224, 0.229),
        ),
    ],
)
def test_normalisation_is_the_processors(processor, mean, std, tmp_path):
    written("segformer", tmp_path, weights=False)
    if processor is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model = build_model(make_spec(f"hf:{tmp_path}"))
    assert model.spec.mean == pytest.approx(mean)
    assert model.spec.std == pytest.approx(std)
    if processor is None or processor.get("do_flip_channel_order"):
        return
    theirs = transformers.SegformerImageProcessor(
        **({"do_resize": False} | processor), size={"height": 8, "width": 8}
    )
    image = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8)
    fed = theirs(image.numpy(), return_tensors="pt", input_data_format="channels_last")
    torch.testing.assert_close(
        model.normalise(image[None]), fed["pixel_values"].float(), rtol=1e-4, atol=1e-4
    )


def test_a_head_of_other_classes_is_for_training(tmp_path):
    theirs = written("segformer", tmp_path)
    names = ("a", "b", "c", "d")
    with pytest.raises(SegalError, match="another number of classes"):
        load_checkpoint(tmp_path, CheckpointOptions(num_classes=4))
    model = load_from_folder(tmp_path, CheckpointOptions(), names)
    assert model.spec.class_names == names
    assert "2 tensors have no fitting weights" in model.notes[0]
    state = model.network.model.state_dict()
    for key, value in theirs.state_dict().items():
        assert torch.equal(state[key], value) == ("classifier" not in key), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "not a network for semantic segmentation"),
        ({"model_type": ["segformer"]}, "not a network for semantic segmentation"),
        ({"decoder_hidden_size": 10**9}, "a value that cannot be used"),
        ({"id2label": {"0": "a", "7": "b"}}, "id2label cannot be used"),
        ({"depths": "many"}, "cannot be"),
        ({"backbone": "owner/name"}, "its backbone is a name on the hub"),
    ],
)
def test_configurations_that_cannot_be_used(change, message, tmp_path):
    written("segformer", tmp_path, weights=False)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises((SegalError, SegalErrors), match=message):
        build_network(make_spec(f"hf:{tmp_path}"))


def test_code_beside_a_configuration_is_never_run(tmp_path):
    written("segformer", tmp_path, weights=False)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w')")
    spec = make_spec(f"hf:{tmp_path}")
    assert "auto_map" not in spec.options["config"]
    build_network(spec)
    assert not (tmp_path / "touched").exists()


def test_names_that_lead_nowhere(tmp_path, monkeypatch):
    for name in ("nowhere/at-all", str(tmp_path), "", "segformer"):
        with pytest.raises(SegalError, match="no such network"):
            make_spec(f"hf:{name}", class_names=CLASSES)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SegalError, match="pip install 'segal-regions"):
        make_spec(f"hf:{tmp_path}", class_names=CLASSES)
