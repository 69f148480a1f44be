"""Detectors of transformers against their own processors; built from configurations alone."""

import json

import pytest
import torch

from segal.errors import SegalError
from segal.models.build import build_network, make_spec
from segal.models.checkpoint import (
    CheckpointOptions,
    load_checkpoint,
    load_from_folder,
    save_checkpoint,
)
from segal.models.sources.huggingface import configuration
from segal.tasks.detection.model import FEATURE_MAPS, FEATURES, RAW, DetectionModel
from tests.tiny_detectors import CLASSES, SIZES, images

transformers = pytest.importorskip("transformers", minversion="5.0")

WIDTHS = {"encoder_in_channels": [16, 16, 16], "decoder_in_channels": [16, 16, 16]}
RT_DETR = {
    "backbone_config": {
        "model_type": "rt_detr_resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 16, 16],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage2", "stage3", "stage4"],
    },
    **WIDTHS,
    "encoder_hidden_dim": 16,
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "d_model": 16,
    "num_queries": 20,
    "decoder_ffn_dim": 16,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "num_denoising": 4,
}
RF_DETR = {
    "backbone_config": {
        "model_type": "rf_detr_dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "num_windows": 2,
        "out_features": ["stage1", "stage2"],
    },
    "d_model": 16,
    "num_queries": 10,
    "decoder_layers": 2,
    "decoder_ffn_dim": 16,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2,
    "group_detr": 2,
    "decoder_n_points": 2,
}
KINDS = {"rt_detr": RT_DETR, "rt_detr_v2": RT_DETR, "d_fine": RT_DETR, "rf_detr": RF_DETR}
TARGETS = [
    {"boxes": torch.tensor([[5.0, 6.0, 60.0, 50.0]]), "labels": torch.tensor([2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def config_of(kind):
    return {"model_type": kind, **KINDS[kind]}


def spec_of(kind, **options):
    size = {} if kind == "rf_detr" else {"size": [64, 96]}
    given = {"config": config_of(kind), **size, **options}
    return make_spec(f"hf:{kind}", "", CLASSES, options=given, task="detection")


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    torch.manual_seed(0)
    spec = spec_of(request.param, score_thresh=0.5)
    model = DetectionModel(build_network(spec), spec).eval()
    torch.nn.init.normal_(model.last_layers()[0].weight)
    torch.nn.init.zeros_(model.last_layers()[0].bias)
    return model


def run(model, batch, catch=()):
    with torch.no_grad():
        return model(batch, catch)


@pytest.mark.parametrize("size", SIZES)
def test_boxes_scores_and_classes_are_those_of_its_processor(model, size):
    image = images(size=size)
    evidence = run(model, image, (FEATURES, RAW))
    found = evidence.detections[0]
    kind = model.network.model.config.model_type
    processor = (
        transformers.RfDetrImageProcessor()
        if kind == "rf_detr"
        else transformers.RTDetrImageProcessor()
    )
    with torch.no_grad():
        own = processor.post_process_object_detection(
            model.network(image), threshold=0.5, target_sizes=[size]
        )[0]
        logits = model.last_layers()[0](found.features)
    assert len(found) > 3
    assert torch.equal(found.scores, own["scores"])
    assert torch.equal(found.classes, own["labels"])
    height, width = size
    limits = torch.tensor([width, height, width, height])
    assert torch.allclose(found.boxes, own["boxes"].clamp(min=0).minimum(limits), atol=1e-5)
    assert torch.allclose(logits.sigmoid(), found.probabilities, atol=1e-5)
    raw = evidence.raw[0]
    assert torch.equal(raw.boxes[found.source], found.boxes)
    assert torch.equal(raw.probabilities[found.source], found.probabilities)
    assert found.probabilities.min() < 0.5 < found.scores.min()


def test_a_batch_of_two_sizes_scores_each_image_as_alone(model):
    batch = [images(size=size, seed=3)[0] for size in SIZES]
    together = run(model, batch, (FEATURES,)).detections
    for image, ours in zip(batch, together, strict=True):
        alone = run(model, image[None], (FEATURES,)).detections[0]
        for field in ("boxes", "probabilities", "classes", "scores", "features", "source"):
            assert torch.equal(getattr(ours, field), getattr(alone, field)), field


def test_maps_and_losses_are_the_librarys(model):
    assert all(x.ndim == 4 for x in run(model, images(2), (FEATURE_MAPS,)).maps)
    batch = [images(size=size)[0] for size in SIZES]
    maps = []
    found = model.losses(batch, TARGETS, maps)
    height, width = SIZES[0]
    relative = torch.tensor([[32.5 / width, 28 / height, 55 / width, 44 / height]])
    labels = [
        {"class_labels": torch.tensor([2]), "boxes": relative},
        {"class_labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)},
    ]
    with torch.no_grad():
        own = model.network(batch, labels)
    assert found.keys() == {"loss"}
    assert torch.allclose(found["loss"], own.loss)
    assert found["loss"].requires_grad and maps


def test_a_folder_and_a_checkpoint_give_the_same_boxes(tmp_path):
    torch.manual_seed(0)
    spec = spec_of("rt_detr", score_thresh=0.0)
    model = DetectionModel(build_network(spec), spec).eval()
    model.network.model.save_pretrained(tmp_path / "folder")
    processor = {"size": {"height": 64, "width": 96}, "do_normalize": False}
    (tmp_path / "folder" / "preprocessor_config.json").write_text(json.dumps(processor))
    options = CheckpointOptions(task="detection", options={"score_thresh": 0.0})
    save_checkpoint(model, tmp_path / "model.safetensors")
    expected = run(model, images()).detections[0]
    for again in (
        load_from_folder(tmp_path / "folder", options),
        load_checkpoint(tmp_path / "folder", options),
        load_checkpoint(tmp_path / "model.safetensors"),
    ):
        assert again.spec.class_names == CLASSES
        assert (again.spec.mean, again.spec.std) == ((0, 0, 0), (1, 1, 1))
        found = run(again, images()).detections[0]
        assert len(found) == 20
        assert torch.equal(found.boxes, expected.boxes)
        assert torch.equal(found.probabilities, expected.probabilities)
    more = load_from_folder(tmp_path / "folder", options, ("a", "b", "c", "d"))
    assert more.spec.num_classes == 4 and more.notes


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("rt_detr", {"size": [0, 64]}, "options.size"),
        ("rt_detr", {"score_thresh": 2}, "options.score_thresh"),
        ("rt_detr", {"nms": 0.5}, "options.nms"),
    ],
)
def test_wrong_options_are_refused(kind, options, words):
    with pytest.raises(SegalError, match=words):
        spec_of(kind, **options)


def test_networks_of_another_task_are_refused():
    config = {"model_type": "segformer"}
    with pytest.raises(SegalError, match="not a network for") as caught:
        make_spec("hf:segformer", "", CLASSES, options={"config": config}, task="detection")
    assert "rf_detr" in str(caught.value)
    with pytest.raises(SegalError, match="not a network for") as caught:
        make_spec("hf:rt_detr", "", CLASSES, options={"config": config_of("rt_detr")})
    assert "segformer" in str(caught.value)


def test_the_size_is_the_processors_or_the_backbones_or_the_usual():
    assert spec_of("rf_detr").options["size"] == [56, 56]
    bare = make_spec(
        "hf:d_fine", "", CLASSES, options={"config": config_of("d_fine")}, task="detection"
    )
    assert bare.options["size"] == [640, 640]
    assert configuration(bare).num_labels == len(CLASSES)
