import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from segal.candidates.regions import RegionSize
from segal.config import TrainConfig
from segal.config.sections import ModelConfig
from segal.errors import SegalError
from segal.jobs.network import initial_model, resolved
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import CheckpointOptions, load_checkpoint, read_spec, save_checkpoint
from segal.models.dropout import (
    active_dropouts,
    add_dropout,
    check_dropout,
    dropout_passes,
    insert_dropout,
)
from segal.scanning.workbench import Bench, ScanSettings
from segal.signals.dropout import DropoutValue, drawn
from segal.tasks import Outline, find_task

CLASSES = ("road", "car", "sky", "tree")


class Maps(nn.ModuleList):
    """Returns a list, which the network changes."""

    def forward(self, x):
        return [layer(x) for layer in self]


class Unruly(nn.Module):
    """Operations in place, a shared list, functions between modules, and two outputs."""

    def __init__(self, num_classes, aux_only=False):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.ReLU(inplace=True)
        self.maps = Maps(nn.Conv2d(6, 6, 1) for _ in range(2))
        self.drop = nn.Dropout(0.4, inplace=True)
        self.side = nn.Conv2d(6, 6, 1)
        self.after = nn.Conv2d(6, 6, 1)
        self.head = nn.Conv2d(6, num_classes, 1)
        self.aux_only = aux_only
        self.classifier = nn.Sequential(nn.Flatten(1), nn.Dropout(0.5))

    def forward(self, images):
        x = self.act(self.norm(self.first(images)))
        x = torch.sin(2 * x)
        self.act(x)  # in place, the result is not used
        outputs = self.maps(x)
        kept = self.side(x)
        y = outputs.pop().mul_(2.0)
        y += x
        if not self.aux_only:
            y = self.drop(y)
        y = self.after(y)
        kept.add_(y)  # changes what came before the dropout
        z = torch.cat([self.side(kept)[:, :3], self.maps[0](y)[:, :3]], 1)
        low = self.head(z)
        out = F.interpolate(low, images.shape[-2:], mode="bilinear", align_corners=False)
        return {"out": out, "aux": self.classifier(x)}


def unruly(num_classes):
    return Unruly(num_classes)


def auxiliary_dropout(num_classes):
    return Unruly(num_classes, aux_only=True)


@pytest.fixture(scope="session")
def own_module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dropout_modules")
    (folder / "dropout_networks.py").write_text(Path(__file__).read_text())
    sys.path.insert(0, str(folder))
    yield "dropout_networks"
    sys.path.remove(str(folder))


def build(architecture, p=0.0, encoder="resnet18"):
    torch.manual_seed(0)
    model = build_model(make_spec(architecture, encoder, CLASSES, insert_dropout=p)).eval()
    # Fresh statistics would leave BatchNorm an identity.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    return model


@pytest.fixture(scope="session")
def deeplab():
    return build("DeepLabV3Plus")


@pytest.fixture(scope="session")
def fpn():
    return build("FPN", 0.3)


def image(height=64, width=80, seed=0):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def naive_pass(model, x, path, number, seed=0):
    """The whole network, with the masks multiplied in by hooks."""
    generators = drawn(seed, path, number)
    calls, hooks = {}, []

    def hook(module, inputs, _, name):
        (x,) = inputs
        shape = x.shape if isinstance(module, nn.Dropout) else (*x.shape[:2], 1, 1)
        rng = generators(f"{name}:{calls.setdefault(name, 0)}")
        calls[name] += 1
        kept = rng.random(shape, dtype=np.float32) < 1 - module.p
        return x * (torch.from_numpy(kept).to(x.dtype) / (1 - module.p))

    for name, module in model.network.named_modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)) and module.p > 0:
            hooks.append(
                module.register_forward_hook(lambda m, i, o, name=name: hook(m, i, o, name))
            )
    with torch.no_grad():
        logits = model(x).logits
    for handle in hooks:
        handle.remove()
    return logits


def passes_of(model, x, path="a.png", count=3, seed=0):
    with dropout_passes(model) as forward:
        return [forward(x, drawn(seed, path, number)) for number in range(count)]


@pytest.mark.parametrize(
    ("architecture", "p"),
    [("DeepLabV3Plus", 0.0), ("DeepLabV3Plus", 0.4), ("FPN", 0.3), ("Unet", 0.2), ("unruly", 0.3)],
)
def test_passes_equal_the_whole_network_run_each_time(own_module, architecture, p):
    name = f"{own_module}:unruly" if architecture == "unruly" else architecture
    model = build(name, p).double()
    x = image(50, 70).double()
    passes = passes_of(model, x)
    for number, logits in enumerate(passes):
        assert torch.equal(logits, naive_pass(model, x, "a.png", number))
    assert logits.shape == (1, len(CLASSES), 50, 70)
    apart = (passes[0] - passes[1]).abs().max()
    assert apart > 1e-3 * passes[0].abs().max()


def test_dropout_of_torch_has_the_same_mean_and_spread(own_module):
    model, x, count = build(f"{own_module}:unruly", 0.3), image(24, 32), 400
    ours = torch.stack(passes_of(model, x, count=count))
    for module in active_dropouts(model.network).values():
        module.train()
    torch.manual_seed(1)
    with torch.no_grad():
        theirs = torch.stack([model(x).logits for _ in range(count)])
    spread = theirs.std(0)
    assert (ours.std(0) / spread).mean() == pytest.approx(1.0, abs=0.05)
    assert ((ours.mean(0) - theirs.mean(0)) / spread).abs().max() < 5 * (2 / count) ** 0.5


def test_what_comes_before_dropout_runs_once(deeplab, monkeypatch):
    decoder = deeplab.network.decoder
    watched = {
        "encoder": deeplab.network.encoder.layer1[0].conv1,
        "atrous": decoder.aspp[0].convs[1][0][0],
        "projection": decoder.aspp[0].project[0],
        "skip": decoder.block1[0],
        "block2": decoder.block2[0][0],
    }
    ran = dict.fromkeys(watched, 0)

    def counting(name, original):
        def forward(*args):
            ran[name] += 1
            return original(*args)

        return forward

    for name, module in watched.items():
        monkeypatch.setattr(module, "_conv_forward", counting(name, module._conv_forward))
    passes_of(deeplab, image(), count=5)
    assert ran == {"encoder": 1, "atrous": 1, "projection": 1, "skip": 1, "block2": 5}


def test_modes_statistics_and_modules_are_as_before_even_after_an_error(deeplab):
    state = {name: value.clone() for name, value in deeplab.state_dict().items()}
    modes = {name: module.training for name, module in deeplab.named_modules()}

    def unchanged():
        assert all(torch.equal(value, state[name]) for name, value in deeplab.state_dict().items())
        assert {name: module.training for name, module in deeplab.named_modules()} == modes
        assert not any("forward" in module.__dict__ for module in deeplab.modules())

    with torch.no_grad():
        before = deeplab(image()).logits
    passes_of(deeplab, image())
    unchanged()
    with pytest.raises(SegalError, match="failed"), dropout_passes(deeplab) as forward:
        forward(torch.zeros(1, 2, 64, 64), drawn(0, "a", 0))
    unchanged()
    with torch.no_grad():
        assert torch.equal(deeplab(image()).logits, before)


def test_a_forward_of_ones_own_is_put_back(fpn):
    model = copy.deepcopy(fpn)
    own = model.network.encoder.forward
    model.network.encoder.__dict__["forward"] = own
    passes_of(model, image())
    assert model.network.encoder.__dict__["forward"] is own


def test_masks_depend_on_seed_path_and_pass_only(fpn):
    first, again = passes_of(fpn, image()), passes_of(fpn, image())
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    for changed in ({"seed": 1}, {"path": "b.png"}):
        assert not torch.equal(passes_of(fpn, image(), **changed)[0], first[0])
    assert torch.equal(passes_of(fpn, image(), count=5)[2], first[2])


def test_networks_without_dropout_are_refused(own_module):
    for name, encoder, got in (
        ("Unet", "resnet18", "none"),
        ("Unet", "efficientnet-b0", "of encoder._dropout"),  # it is there, and never called
        (f"{own_module}:auxiliary_dropout", "", "of drop, classifier.1"),
    ):
        model = build(name, encoder=encoder)
        with pytest.raises(SegalError, match=r"model\.insert_dropout=0\.2") as error:
            check_dropout(model)
        assert got in error.value.got
    switched_off = build("FPN")
    switched_off.network.decoder.dropout.p = 0.0
    with pytest.raises(SegalError, match="no dropout"):
        check_dropout(switched_off)


def test_networks_with_dropout_are_taken(own_module, deeplab, fpn):
    for model in (deeplab, fpn, build("Unet", 0.2), build(f"{own_module}:unruly")):
        check_dropout(model)


@pytest.mark.parametrize("kind", [nn.AlphaDropout(0.5), nn.Identity(), nn.Dropout(0.0)])
def test_what_is_no_dropout_that_drops(kind):
    assert active_dropouts(nn.Sequential(kind)) == {}


def test_whole_channels_are_dropped_in_training_and_all_of_it_at_one():
    head = nn.Conv2d(200, 200, 1, bias=False)
    nn.init.dirac_(head.weight)
    add_dropout(head, 0.3)
    torch.manual_seed(0)
    out = head(torch.ones(1, 200, 4, 5))
    assert ((out == 0).all((2, 3)) | torch.isclose(out, torch.tensor(1 / 0.7)).all((2, 3))).all()
    assert 30 <= int((out[0, :, 0, 0] == 0).sum()) <= 90
    assert torch.equal(head.eval()(torch.ones(1, 200, 4, 5)), torch.ones(1, 200, 4, 5))
    head.dropout.p = 1.0
    assert (head.train()(torch.ones(1, 200, 4, 5)) == 0).all()


def test_a_copy_uses_its_own_dropout():
    head = nn.Conv2d(50, 2, 1)
    add_dropout(head, 0.5)
    other = copy.deepcopy(head).eval()
    x = torch.ones(1, 50, 2, 2)
    assert torch.equal(other(x), other(x))
    assert not torch.equal(head(x), head(x))


@pytest.mark.parametrize("architecture", ["DeepLabV3Plus", "Unet", "own"])
def test_inserted_dropout_changes_nothing_in_eval_mode(own_module, architecture):
    name = f"{own_module}:unruly" if architecture == "own" else architecture
    with_it, without = build(name, 0.5), build(name)
    assert with_it.state_dict().keys() == without.state_dict().keys()
    with_it.load_state_dict(without.state_dict())
    x = image(50, 70)
    tails = ("last", "last_two") if architecture == "DeepLabV3Plus" else ("last",)
    with torch.no_grad():
        ours, plain = with_it(x, tails), without(x, tails)
        assert torch.equal(ours.logits, plain.logits)
        assert torch.equal(ours.features, plain.features)
        for tail in tails:
            assert torch.equal(ours.tail_input[tail], plain.tail_input[tail])
            assert with_it.tail(tail).parameters.keys() == without.tail(tail).parameters.keys()
            tailed = with_it.tail(tail)(
                ours.tail_input[tail], with_it.tail(tail).parameters, (50, 70), ours.upsampling
            )
            assert torch.allclose(tailed, ours.logits, atol=1e-5)
        with_it.train()
        assert not torch.equal(with_it.head(ours.features), with_it.head(ours.features))


def test_directional_derivatives_pass_through_inserted_dropout():
    model = build("Unet", 0.5)
    features = torch.randn(2, model.head.in_channels, 5, 6)
    tail = model.tail("last")
    parameters = {name: value.detach() for name, value in tail.parameters.items()}

    def low(p, x):
        return torch.func.functional_call(tail.module, p, (x[None],))[0]

    def along(x):
        return torch.func.jvp(lambda p: low(p, x), (parameters,), (parameters,))[1]

    with torch.no_grad():
        tangent = torch.func.vmap(along)(features)
        assert torch.allclose(tangent, model.head(features), atol=1e-5)


def test_the_checkpoint_says_so(tmp_path):
    model = build("Unet", 0.25)
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path)
    assert read_spec(path).insert_dropout == 0.25
    loaded = load_checkpoint(path)
    assert loaded.head.dropout.p == 0.25
    assert active_dropouts(loaded.network) == {"segmentation_head.0.dropout": loaded.head.dropout}
    for p in (0.0, 0.5):
        assert load_checkpoint(path, CheckpointOptions(insert_dropout=p)).spec.insert_dropout == p
    resaved = tmp_path / "again.safetensors"
    save_checkpoint(loaded, resaved)
    assert read_spec(resaved) == model.spec


def test_a_checkpoint_from_before_still_loads_and_a_wrong_one_is_refused(tmp_path):
    model = build("Unet")
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path)
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["segal"])
    state = load_file(path)
    assert "insert_dropout" not in metadata["spec"]  # 0 is left out
    save_file(state, path, {"segal": json.dumps(metadata)})
    assert load_checkpoint(path).spec == model.spec
    for wrong in (1.0, -0.1, "half"):
        metadata["spec"]["insert_dropout"] = wrong
        save_file(state, path, {"segal": json.dumps(metadata)})
        with pytest.raises(SegalError, match="metadata"):
            load_checkpoint(path)


def test_it_takes_plain_weights_and_refuses_what_is_no_share(tmp_path):
    model = build("Unet")
    path = tmp_path / "plain.safetensors"
    save_file(model.network.state_dict(), path)
    options = CheckpointOptions("Unet", "resnet18", len(CLASSES), insert_dropout=0.2)
    assert load_checkpoint(path, options).head.dropout.p == 0.2
    with pytest.raises(SegalError, match="insert_dropout: cannot be used"):
        make_spec("Unet", "resnet18", CLASSES, insert_dropout=1.0)


def test_a_configuration_asks_for_it(tmp_path):
    def config(**model):
        return TrainConfig.model_validate(
            {"data": {"root": tmp_path}, "model": {"architecture": "Unet", **model}, "out": "out"}
        )

    asked, plain = config(insert_dropout="0.3"), config()
    model, without = initial_model(asked, Outline(CLASSES)), initial_model(plain, Outline(CLASSES))
    assert (model.head.dropout.p, model.spec.insert_dropout) == (0.3, 0.3)
    assert resolved(asked, model.spec).model.insert_dropout == 0.3
    assert resolved(plain, without.spec).model.insert_dropout == 0.0
    for name, value in without.state_dict().items():  # the same draws of the first weights
        assert torch.equal(model.state_dict()[name], value)
    path = tmp_path / "model.safetensors"
    save_checkpoint(without, path)
    warm = asked.model_copy(update={"checkpoint": path})
    assert initial_model(warm, Outline(CLASSES)).spec.insert_dropout == 0.3
    select = ModelConfig(insert_dropout=0.1)
    assert load_checkpoint(path, CheckpointOptions(**select.model_dump())).head.dropout.p == 0.1
    with pytest.raises(ValidationError, match="insert_dropout"):
        config(insert_dropout=1.0)


@pytest.mark.parametrize("name", ["mc_dropout", "bald"])
def test_rows_of_features_draw_together_what_they_draw_alone(name):
    spec = make_spec("linear", "", CLASSES, task="classification", input_channels=9)
    model = build_model(replace(spec, insert_dropout=0.4))
    model = insert_dropout(model).eval()
    inputs = torch.randn(6, 9, 1, 1, generator=torch.Generator().manual_seed(0))
    paths = tuple(f"x/{i}" for i in range(6))
    bench = Bench(model, find_task("classification"), ScanSettings(torch.device("cpu")), seed=5)
    meter, units = DropoutValue(name, 7).prepare(bench), RegionSize().grid(1, 1)

    def measured(rows):
        with torch.no_grad():
            evidence = model(inputs[rows])
        evidence.inputs, evidence.images = inputs[rows], paths[rows]
        return meter.measure(evidence, units)

    together = measured(slice(None))
    alone = torch.cat([measured(slice(i, i + 1)) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-7)
    assert len(together.unique()) == 6
