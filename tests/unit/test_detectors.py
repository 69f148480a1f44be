"""Detectors against their own libraries, which are the outside oracle here."""

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torchvision.models import detection, mobilenet_v2, resnet18, vgg16
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import FrozenBatchNorm2d

from segal.errors import SegalError
from segal.models.build import build_model, build_network, make_spec
from segal.models.checkpoint import load_checkpoint, save_checkpoint
from segal.models.dropout import check_dropout
from segal.models.sources.torchvision_detection import encoder_of, names
from segal.models.wrapped import NoHeadError
from segal.tasks.detection.evidence import DetectionEvidence, Detections
from segal.tasks.detection.model import FEATURE_MAPS, FEATURES, RAW, DetectionModel
from tests.tiny_detectors import CLASSES, FAMILIES, SIZES, SMALL, build, images

ALL = (FEATURES, RAW, FEATURE_MAPS)
TARGETS = [
    {
        "boxes": torch.tensor([[5.0, 6.0, 60.0, 50.0], [30.0, 2.0, 70.0, 40.0]]),
        "labels": torch.tensor([2, 0]),
    },
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},  # a negative
]


@pytest.fixture(scope="module")
def models():
    return {name: build(name) for name in FAMILIES}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, models):
    return models[request.param]


def run(model, batch, catch=()):
    with torch.no_grad():
        return model(batch, catch)


def make(architecture, encoder="resnet18", classes=CLASSES, **options):
    return make_spec(architecture, encoder, classes, options=options, task="detection")


# Boxes


@pytest.mark.parametrize("size", SIZES)
def test_boxes_scores_and_classes_are_those_of_torchvision(model, size):
    image = images(size=size)[0]
    with torch.no_grad():
        own = model.network([image])[0]
    found = run(model, [image], ALL).detections[0]
    assert len(found) > 10
    assert len(set(found.classes.tolist())) > 1
    assert torch.equal(found.boxes, own["boxes"])
    assert torch.equal(found.scores, own["scores"])
    assert torch.equal(found.classes + model.detector.first, own["labels"])


def test_a_batch_of_two_sizes_scores_each_image_as_alone(model):
    batch = [images(size=size, seed=3)[0] for size in SIZES]
    together = run(model, batch, (FEATURES, RAW))
    for index, image in enumerate(batch):
        alone = run(model, image[None], (FEATURES, RAW))
        for field in ("boxes", "probabilities", "classes", "scores", "features", "source"):
            ours, theirs = (
                getattr(one, field) for one in (together.detections[index], alone.detections[0])
            )
            assert torch.equal(ours, theirs), field
        assert torch.equal(together.raw[index].logits, alone.raw[0].logits)


@pytest.mark.parametrize("name", ["ssd300_vgg16", "fasterrcnn_resnet50_fpn_v2"])
@pytest.mark.slow
def test_the_large_ones_are_those_of_torchvision_too(name):
    spec = make(f"torchvision:{name}")
    model = DetectionModel(build_network(spec), spec).eval()
    with torch.no_grad():
        own = model.network([images()[0]])[0]
    found = run(model, images()).detections[0]
    assert len(found) > 10
    assert torch.equal(found.boxes, own["boxes"])
    assert torch.equal(found.scores, own["scores"])


def test_boxes_are_found_whatever_the_mode(models):
    model = models["fasterrcnn"]
    network = model.network
    before = run(model, images()).detections[0]
    network.train(True)
    for module in network.modules():  # their statistics are the batch's in training mode
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    after = run(model, images()).detections[0]
    assert network.training and network.rpn.training and network.roi_heads.training
    network.eval()
    assert torch.equal(before.boxes, after.boxes)


def test_an_image_without_boxes_has_none(models):
    model = copy.deepcopy(models["retinanet"])
    nn.init.constant_(model.last_layers()[0].bias, -1e4)
    found = run(model, images(2), ALL)
    assert [len(one) for one in found.detections] == [0, 0]
    assert found.detections[0].features.shape == (0, 256)
    assert found.logits.shape == (1, len(CLASSES), 1, 0)


# Probabilities and raw outputs


def test_probabilities_are_of_all_classes_also_below_the_threshold(model):
    evidence = run(model, images(), ALL)
    found, raw = evidence.detections[0], evidence.raw[0]
    logits = raw.logits[found.source].double()
    if raw.softmax:
        exact = logits.exp() / logits.exp().sum(1, keepdim=True)
        assert raw.logits.shape[1] == len(CLASSES) + 1
        exact = exact[:, 1:]
        assert (found.probabilities.sum(1) < 1 + 1e-6).all()
    else:
        exact = 1 / (1 + (-logits).exp())
    assert found.probabilities.shape == (len(found), len(CLASSES))
    assert torch.allclose(found.probabilities.double(), exact, atol=1e-6)
    own = found.probabilities.gather(1, found.classes[:, None])[:, 0]
    if not isinstance(model.network, detection.FCOS):
        assert torch.equal(found.scores, own) or torch.allclose(found.scores, own, atol=1e-7)
        least = getattr(model.network, "score_thresh", 0.1)
        assert found.scores.min() > least > found.probabilities.min()  # which torchvision drops
    assert (found.scores[1:] <= found.scores[:-1]).all()


def test_raw_boxes_are_in_the_pixels_of_the_image(model):
    evidence = run(model, images(), ALL)
    found, raw = evidence.detections[0], evidence.raw[0]
    assert raw.boxes.shape == (sum(raw.levels), 4)
    assert torch.equal(raw.probabilities[found.source], found.probabilities) or torch.allclose(
        raw.probabilities[found.source], found.probabilities, atol=1e-7
    )
    same = torch.ones(len(found), dtype=torch.bool)
    if isinstance(model.network, detection.FasterRCNN):  # a box for each class
        same = found.probabilities.argmax(1) == found.classes
    assert same.sum() > 5
    assert torch.allclose(raw.boxes[found.source][same], found.boxes[same], atol=1e-4)


def test_raw_outputs_are_refused_where_nobody_asked(models):
    with pytest.raises(ValueError, match="raw outputs"):
        _ = run(models["fcos"], images()).raw


def test_features_of_faster_rcnn_give_its_probabilities_and_boxes(models):
    model = models["fasterrcnn"]
    evidence = run(model, images(), ALL)
    found, raw, heads = evidence.detections[0], evidence.raw[0], model.network.roi_heads
    logits, deltas = heads.box_predictor(found.features)
    assert torch.allclose(logits.softmax(-1)[:, 1:], found.probabilities, atol=1e-6)
    decoded = heads.box_coder.decode(deltas, [raw.anchors[found.source]])
    chosen = decoded[torch.arange(len(found)), found.classes + 1]
    inputs, _ = model.network.transform([images()[0]])
    height, width = inputs.image_sizes[0]
    chosen = chosen.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    assert torch.allclose(resize_boxes(chosen, (height, width), SIZES[0]), found.boxes, atol=1e-3)


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_features_are_the_class_towers_cells(models, name):
    model = models[name]
    evidence = run(model, images(), ALL)
    found, raw = evidence.detections[0], evidence.raw[0]
    towers, layer = raw.towers["class"], model.last_layers()[0]
    per_cell = raw.levels[0] // (towers[0].shape[1] * towers[0].shape[2])
    assert len({int(s) for s in found.source}) > 5
    for n in range(len(found)):
        level, left = 0, int(found.source[n])
        while left >= raw.levels[level]:
            left -= raw.levels[level]
            level += 1
        cell, anchor = left // per_cell, left % per_cell
        y, x = divmod(cell, towers[level].shape[2])
        assert torch.equal(found.features[n], towers[level][:, y, x])
        patch = F.pad(towers[level], (1, 1, 1, 1))[:, y : y + 3, x : x + 3]
        logits = torch.einsum("kdij,dij->k", layer.weight, patch) + layer.bias
        ours = logits.view(per_cell, -1)[anchor]
        assert torch.allclose(ours, raw.logits[found.source[n]], atol=1e-3)


def test_features_of_ssd_are_padded_to_the_widest_map(models):
    evidence = run(models["ssd"], images(), ALL)
    found, raw = evidence.detections[0], evidence.raw[0]
    assert [t.shape[0] for t in raw.towers["class"]] == [8, 12]
    assert found.features.shape[1] == 12
    first = found.source < raw.levels[0]
    assert 0 < first.sum() < len(found)
    assert (found.features[first][:, 8:] == 0).all()
    counts = models["ssd"].network.anchor_generator.num_anchors_per_location()
    for n in torch.where(~first)[0]:
        cell = (int(found.source[n]) - raw.levels[0]) // counts[1]
        y, x = divmod(cell, raw.towers["class"][1].shape[2])
        assert torch.equal(found.features[n], raw.towers["class"][1][:, y, x])


def test_logits_are_a_distribution_over_classes(model):
    evidence = run(model, [images(size=size)[0] for size in SIZES], ())
    found = torch.cat([one.probabilities for one in evidence.detections])
    assert evidence.logits.shape == (1, len(CLASSES), 1, len(found))
    expected = found / found.sum(1, keepdim=True)
    assert torch.allclose(evidence.logits.softmax(1)[0, :, 0].T, expected, atol=1e-6)


def test_of_one_class_there_are_two_columns():
    model = build("ssd", ("cell",))
    evidence = run(model, images())
    found = evidence.detections[0]
    assert found.probabilities.shape == (len(found), 1)
    softmax = evidence.logits.softmax(1)[0, :, 0].T
    assert torch.allclose(softmax[:, 0], found.probabilities[:, 0], atol=1e-6)
    assert torch.allclose(softmax[:, 1], 1 - found.probabilities[:, 0], atol=1e-6)


def test_kept_boxes_are_the_same_boxes(models):
    found = run(models["ssd"], images(), (FEATURES,)).detections[0]
    which = torch.arange(len(found)) % 3 == 1
    kept = found.keep(which)
    assert len(kept) == int(which.sum())
    assert torch.equal(kept.features, found.features[which])
    assert torch.equal(kept.source, found.source[which])


def test_evidence_of_no_images_is_empty():
    assert DetectionEvidence([], classes=3).logits.shape == (1, 3, 1, 0)


# Maps and losses


def test_maps_are_the_pyramids(model):
    batch = images(2)
    evidence = run(model, batch, (FEATURE_MAPS,))
    inputs, _ = model.network.transform([batch[1]])
    with torch.no_grad():
        own = model.network.backbone(inputs.tensors)
    assert len(evidence.maps) == len(own)
    for ours, theirs in zip(evidence.maps, own.values(), strict=True):
        assert torch.equal(ours[1:], theirs)
    height, width = evidence.upsampling.size
    assert height >= SIZES[0][0] and width >= SIZES[0][1]
    padded, resized = inputs.tensors.shape[-2:], inputs.image_sizes[0]
    assert abs(height / SIZES[0][0] - padded[0] / resized[0]) < 0.02


def test_a_loss_prediction_module_takes_the_pyramid(models):
    model = build("ssd")
    module = model.add_loss_prediction(0)
    maps = run(model, images(), (FEATURE_MAPS,)).maps
    assert module([x.mean((2, 3)) for x in maps]).shape == (1,)


@pytest.mark.parametrize(
    ("name", "training"), [*((name, True) for name in FAMILIES), ("fasterrcnn", False)]
)
def test_losses_are_torchvisions_own(models, name, training):
    model = models[name]
    ours, theirs = copy.deepcopy(model).train(training), copy.deepcopy(model).train()
    if not training:  # torchvision answers with losses in training mode alone
        theirs.network.transform.eval()  # which draws a size
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    batch = [images(size=size)[0] for size in SIZES]
    first = model.detector.first
    targets = [{**one, "labels": one["labels"] + first} for one in TARGETS]
    torch.manual_seed(5)
    expected = theirs.network(batch, targets)
    torch.manual_seed(5)
    maps = []
    found = ours.losses(batch, TARGETS, maps)
    assert found.keys() == expected.keys()
    for key in found:
        assert torch.equal(found[key], expected[key]), key
    assert all(x.requires_grad and len(x) == 2 for x in maps) and len(maps) >= 2
    gradients = torch.autograd.grad(sum(found.values()), maps, allow_unused=True)
    assert any(g is not None and bool(g.abs().sum() > 0) for g in gradients)
    assert all(module.training == training for module in ours.network.modules())


def test_losses_in_eval_mode_leave_batch_norm_alone(models):
    model = models["fcos"]
    before = copy.deepcopy(model.network.state_dict())
    model.losses(images(2), [TARGETS[0]] * 2)
    after = model.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_what_the_network_raises_is_said(models):
    bad = [{"boxes": torch.tensor([[5.0, 5.0, 5.0, 9.0]]), "labels": torch.tensor([0])}]
    with pytest.raises(SegalError, match="failed on 1 images of 70 x 110"):
        models["fcos"].losses(images(), bad)
    with pytest.raises(SegalError, match="failed on 1 images"):
        models["fcos"](torch.zeros(1, 5, 64, 64))


# Building


def test_names_are_detectors_that_answer_with_boxes_alone():
    assert {
        *("fasterrcnn", "retinanet", "fcos", "fasterrcnn_resnet50_fpn", "ssd300_vgg16"),
        *("retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large"),
    } <= set(names())
    assert not [name for name in names() if "mask" in name or "keypoint" in name]


@pytest.mark.parametrize(
    ("architecture", "encoder", "options", "words"),
    [
        ("torchvision:retinet", "resnet18", {}, ["unknown detector", "torchvision:retinanet"]),
        ("torchvision:maskrcnn_resnet50_fpn", "", {}, ["unknown detector"]),
        ("torchvision:resnet18", "", {}, ["unknown detector"]),
        ("torchvision:fcos", "resnet19", {}, ["unknown backbone 'resnet19'", "resnet18"]),
        ("torchvision:fcos", "vgg16", {"mnsize": 3}, ["unknown backbone", "options.mnsize"]),
        ("torchvision:fcos", "resnet18", {"weights": "DEFAULT"}, ["nothing is downloaded"]),
        ("torchvision:fcos", "resnet18", {"norm": "group"}, ["batch", "frozen"]),
        ("torchvision:ssd300_vgg16", "", {"min_size": 100}, ["takes no such option"]),
        ("torchvision:ssd300_vgg16", "", {"norm": "frozen"}, ["takes no such option"]),
    ],
)
def test_wrong_names_and_options_are_refused(architecture, encoder, options, words):
    with pytest.raises(SegalError) as caught:
        make(architecture, encoder, **options)
    assert all(word in str(caught.value) for word in words)


def test_nothing_is_frozen_and_one_class_is_enough(models):
    for model in models.values():
        assert all(p.requires_grad for p in model.network.parameters())
    assert make("torchvision:fcos", classes=("cell",)).num_classes == 1


@pytest.mark.parametrize(
    ("head", "encoder"),
    [("fasterrcnn", "mobilenet_v3_small"), ("retinanet", "mobilenet_v2"), ("fcos", "resnet34")],
)
def test_every_level_of_the_pyramid_halves_the_one_before(head, encoder):
    with torch.device("meta"):
        network = build_network(make(f"torchvision:{head}", encoder))
        maps = network.backbone(torch.zeros(1, 3, 256, 384))
    first = 4 if head == "fasterrcnn" else 8
    sides = [(256 // (first << i), 384 // (first << i)) for i in range(5)]
    assert [tuple(x.shape[-2:]) for x in maps.values()] == sides
    assert {x.shape[1] for x in maps.values()} == {256}


def test_anchors_can_be_set():
    sizes = [[4], [8], [16], [32], [64]]
    spec = make("torchvision:fasterrcnn", anchor_sizes=sizes, aspect_ratios=[1.0, 2.0], **SMALL)
    with torch.device("meta"):
        network = build_network(spec)
    assert network.rpn.anchor_generator.sizes == ((4,), (8,), (16,), (32,), (64,))
    assert network.rpn.head.cls_logits.out_channels == 2
    with pytest.raises(SegalError, match="cannot be built"):
        build_network(make("torchvision:fcos", aspect_ratios=[1.0, 2.0]))


def test_networks_of_torchvisions_examples_have_a_background_that_is_never_found():
    options = {**SMALL, "background": True, "topk_candidates": 50}
    spec = make("torchvision:retinanet", **options)
    torch.manual_seed(0)
    model = DetectionModel(build_network(spec), spec).eval()
    layer = model.last_layers()[0]
    nn.init.normal_(layer.weight, std=0.3)
    nn.init.zeros_(layer.bias)
    assert layer.out_channels == 9 * (len(CLASSES) + 1)
    found = run(model, images(), (RAW,))
    assert found.raw[0].logits.shape[1] == len(CLASSES)
    with torch.no_grad():  # so that torchvision finds no background either
        layer.weight.view(9, -1, 256, 3, 3)[:, 0] = 0
        layer.bias.view(9, -1)[:, 0] = -1e4
        own = model.network([images()[0]])[0]
    assert torch.equal(found.detections[0].boxes, own["boxes"])
    assert torch.equal(found.detections[0].classes + 1, own["labels"])
    losses = model.losses(images(), TARGETS[:1])
    layer.bias.data.view(9, -1)[:, 3] = 50.0  # the class of the first target is surely there
    assert model.losses(images(), TARGETS[:1])["classification"] != losses["classification"]


def test_the_wrapper_normalises_and_not_the_network():
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    network = detection.FCOS(backbone, 3, **SMALL).eval()
    nn.init.normal_(network.head.classification_head.cls_logits.weight, std=0.3)
    pixels = torch.randint(256, (1, 70, 110, 3), dtype=torch.uint8)
    with torch.no_grad():
        own = network([pixels[0].permute(2, 0, 1) / 255])[0]
    spec = make("tests.tiny_detectors:none")
    model = DetectionModel(network, spec)
    found = run(model, model.normalise(pixels)).detections[0]
    assert len(found) == len(own["scores"]) > 5
    assert torch.allclose(found.scores, own["scores"], atol=1e-4)
    network.transform.image_mean = [0.1, 0.1, 0.1]
    with pytest.raises(SegalError, match="give its own numbers as --mean"):
        DetectionModel(network, spec)


# Weights


@pytest.mark.parametrize(
    ("encoder", "published", "norm"),
    [("resnet18", resnet18, "frozen"), ("mobilenet_v2", mobilenet_v2, "batch")],
)
def test_weights_of_a_backbone_are_loaded_without_its_classifier(
    tmp_path, encoder, published, norm
):
    torch.manual_seed(1)
    file, source = tmp_path / "backbone.safetensors", published(weights=None)
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
    save_file(source.state_dict(), file)
    spec = make("torchvision:retinanet", encoder, norm=norm, **SMALL)
    model = build_model(spec, file)
    body = model.network.backbone.body
    frozen = any(isinstance(module, FrozenBatchNorm2d) for module in body.modules())
    assert frozen == (norm == "frozen")
    stored = source.state_dict()
    loaded = body.state_dict()
    prefix = "features." if encoder.startswith("mobilenet") else ""
    assert len(loaded) >= 100
    for key, value in loaded.items():
        assert torch.equal(value, stored[prefix + key]), key
    assert "num_batches" not in " ".join(model.notes)


def test_the_view_of_vgg_has_its_published_names():
    with torch.device("meta"):
        network = build_network(make("torchvision:ssd300_vgg16"))
        published = vgg16(weights=None).features
    ours = encoder_of(network).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {
        k: v.shape for k, v in published.state_dict().items()
    }


def test_weights_of_another_backbone_are_refused(tmp_path, models):
    with pytest.raises(SegalError, match="fewer channels"):
        models["ssdlite320_mobilenet_v3_large"].detector.encoder()
    with pytest.raises(SegalError, match="pyramid"):
        models["ssd"].detector.encoder()


def test_a_checkpoint_gives_the_same_boxes(tmp_path, models):
    model = models["retinanet"]
    save_checkpoint(model, tmp_path / "model.safetensors")
    again = load_checkpoint(tmp_path / "model.safetensors")
    assert isinstance(again, DetectionModel) and again.spec == model.spec
    ours, theirs = (run(m, images()).detections[0] for m in (again, model))
    assert torch.equal(ours.boxes, theirs.boxes)
    assert torch.equal(ours.probabilities, theirs.probabilities)


@pytest.mark.parametrize("name", ["torchvision:fasterrcnn", "tests.tiny_detectors:small_ssd"])
def test_dropout_is_inserted_before_the_class_layer(name):
    options = SMALL if name.startswith("torchvision") else {}
    spec = make_spec(
        name, "resnet18", CLASSES, options=options, task="detection", insert_dropout=0.5
    )
    model = build_model(spec).eval()
    check_dropout(model)
    plain = run(model, images(), (RAW,)).raw[0]
    model.last_layers()[0].get_submodule("dropout").train()
    dropped = run(model, images(), (RAW,)).raw[0]
    assert plain.logits.shape == dropped.logits.shape
    assert not torch.allclose(plain.logits, dropped.logits)


def test_a_detector_without_dropout_is_refused_for_passes_with_it(models):
    with pytest.raises(SegalError, match="no dropout"):
        check_dropout(models["fcos"])


def test_a_detector_runs_on_noise_and_has_no_single_head(models):
    for model in models.values():
        model.check()
        model.check_features()
    with pytest.raises(NoHeadError):
        _ = models["fcos"].head
    with pytest.raises(NoHeadError):
        models["fcos"](images(), ("last",))


def test_detections_are_of_equal_length(model):
    found = run(model, images(), (FEATURES,)).detections[0]
    assert isinstance(found, Detections)
    parts = (found.boxes, found.probabilities, found.classes, found.scores, found.features)
    assert {len(part) for part in parts} == {len(found)} == {len(found.source)}


@pytest.mark.parametrize("name", ["fasterrcnn", "retinanet", "fcos"])
@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2"])
def test_pyramids_may_be_narrow(name, encoder):
    # Of 32 channels, FCOS's 32 groups have one value each on a map of one cell: 64 are the least.
    given = {"width": 64, "min_size": 64, "max_size": 96}
    spec = make_spec(f"torchvision:{name}", encoder, CLASSES, options=given, task="detection")
    model = DetectionModel(build_network(spec), spec).eval()
    (maps,) = {x.shape[1] for x in model.check_feature_maps()}
    assert maps == 64


@pytest.mark.parametrize("training", [False, True])
def test_a_narrow_fcos_says_which_images_are_too_small(training):
    """Each of the 32 groups that it normalises is one channel then, and of one cell one number."""
    options = {"width": 32, "min_size": 32, "max_size": 300}
    spec = make_spec("torchvision:fcos", "resnet18", CLASSES, options=options, task="detection")
    model = DetectionModel(build_network(spec), spec).train(training)

    def look(height, width):
        image = torch.rand(1, 3, height, width)
        if not training:
            return model(image)
        box = torch.tensor([[1.0, 1.0, 20.0, 20.0]])
        return model.losses([image[0]], [{"boxes": box, "labels": torch.tensor([0])}])

    with pytest.raises(SegalError, match=r"width: 32, of images") as caught:
        look(32, 64)
    assert "width=64" in caught.value.remedy and "128 pixels" in caught.value.expected
    look(32, 160)


def test_a_width_is_checked():
    for width in (0, 5000, "64", 48):
        with pytest.raises(SegalError, match="not a width"):
            make_spec("torchvision:fcos", "resnet18", CLASSES, options={"width": width},
                      task="detection")  # fmt: skip
    with pytest.raises(SegalError, match="no such option"):
        make_spec("torchvision:ssd300_vgg16", "", CLASSES, options={"width": 64}, task="detection")
