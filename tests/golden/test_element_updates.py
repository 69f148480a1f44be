"""Steps on images of one element, by hand, against real steps of a real network, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segal.candidates.regions import RegionSize
from segal.errors import SegalError
from segal.scanning.workbench import forward
from segal.signals import element_updates
from segal.signals.error_change import HoldoutErrorChange, Prefilter, UpdatedEntropy
from segal.signals.pixel_sample import EVERY_PIXEL, SampleSize, draw_sites
from segal.signals.region_updates import RegionUpdates
from tests.tiny_classifier import CLASSES, TinyClassifier, make_bench, make_model

COUNT = 7
LR = 0.3  # large, so that the second step and the third differ from the first


def build(bias=True, task="classification"):
    torch.manual_seed(1)
    network = TinyClassifier(len(CLASSES))
    network.classifier[1] = nn.Linear(7, len(CLASSES), bias=bias)
    return make_model(task, network)


def measured(signal, model, batch_size=COUNT):
    bench = make_bench(model, COUNT)
    pool = bench.images("pool").pool
    meter, found = signal.prepare(bench), []
    for start in range(0, COUNT, batch_size):
        some = range(start, min(start + batch_size, COUNT))
        images = torch.stack([torch.from_numpy(pool.read(i)) for i in some])
        names = [pool.paths[i] for i in some]
        evidence = forward(bench.task, model, images, bench.settings, meter.catch, names)
        units = RegionSize().grid(*evidence.logits.shape[2:])
        found.append(meter.measure(evidence, units))
    return torch.cat(found)[:, 0]


def real_logits(model, steps, lr):
    """(candidates, images, C) before and after real steps on each candidate, and the labels."""
    pool = make_bench(model, COUNT).images("val").pool
    images = torch.stack([torch.from_numpy(pool.read(i)) for i in range(COUNT)])
    labels = torch.tensor([int(pool.read_label(i)[0, 0]) for i in range(COUNT)])
    inputs, after = model.normalise(images).double(), []
    with torch.no_grad():
        before = model.network(inputs)
    for image in range(COUNT):
        trained = copy.deepcopy(model.network)
        target = before[image].argmax()[None]
        optimiser = torch.optim.SGD(trained.classifier.parameters(), lr=lr)
        for _ in range(steps):
            optimiser.zero_grad()
            F.cross_entropy(trained(inputs[image, None]), target).backward()
            optimiser.step()
        with torch.no_grad():
            after.append(trained(inputs))
    return before, torch.stack(after), labels


def drawn(model, of, size):
    """Images that a sample of a set holds."""
    images = make_bench(model, COUNT).images(of)
    if size.exact:
        return list(range(COUNT))
    sites = draw_sites(images, size, torch.Generator().manual_seed(0))
    return [images.pool.paths.index(name) for name in sites]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [EVERY_PIXEL, SampleSize(4)], ids=["all", "some"])
@pytest.mark.parametrize("reduce", ["positive", "all"])
def test_error_change_equals_real_steps(bias, size, reduce, monkeypatch):
    monkeypatch.setattr(RegionUpdates, "sums", lambda *_: pytest.fail("the general way"))
    model = build(bias)
    before, after, labels = real_logits(model, 3, LR)
    losses = [F.cross_entropy(z, labels, reduction="none") for z in (*after, before)]
    change = (torch.stack(losses[:-1]) - losses[-1])[:, drawn(model, "val", size)]
    expected = change.mean(1)
    if reduce == "positive":
        rises = change > 0
        expected = (change * rises).sum(1) / rises.sum(1).clamp(min=1)
    signal = HoldoutErrorChange("last", 3, LR, reduce, size)
    for batch_size in (COUNT, 3):
        found = measured(signal, model, batch_size)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert float(expected.std()) > 1e-4


def test_error_reduction_equals_real_steps():
    model = build()
    _, after, _ = real_logits(model, 1, LR)
    expected = torch.distributions.Categorical(logits=after).entropy().mean(1)
    found = measured(UpdatedEntropy("last", 1, LR), model)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_general_way_gives_the_same(monkeypatch):
    model = build()
    signals = [
        HoldoutErrorChange("last", 3, LR, holdout=SampleSize(5)),
        HoldoutErrorChange("last", 3, LR, "all", prefilter=Prefilter(0.5, -1.0)),
        UpdatedEntropy("last", 2, LR),
    ]
    by_hand = [measured(signal, model) for signal in signals]
    monkeypatch.setattr(element_updates, "_GATHERED_BYTES", 1)
    monkeypatch.setattr(element_updates, "_KEPT_BYTES", 1)
    little_memory = [measured(signal, model) for signal in signals]
    monkeypatch.setattr(element_updates.ElementUpdates, "of", lambda *_: None)
    for signal, one, other in zip(signals, by_hand, little_memory, strict=True):
        torch.testing.assert_close(one, measured(signal, model), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("task", "layers"), [("multilabel", "last"), ("classification", "stage2")])
def test_other_layers_take_the_general_way(task, layers):
    model = build(task=task)
    updates = RegionUpdates.on(make_bench(model, COUNT), "val", layers, EVERY_PIXEL, 1, LR)
    assert updates.elements is None


def test_a_prefilter_leaves_images_out():
    model = build()
    whole = measured(HoldoutErrorChange("last", 3, LR, "all"), model)
    guide = HoldoutErrorChange("last", 3, LR, "all").guide
    order = HoldoutErrorChange("last", 3, LR, "all").guide_scores(measured(guide, model))
    threshold = float(order.sort().values[4])
    signal = HoldoutErrorChange("last", 3, LR, "all", prefilter=Prefilter(0.4, threshold))
    found, chosen = measured(signal, model), order >= threshold
    assert chosen.sum() == 3
    torch.testing.assert_close(found[chosen], whole[chosen], rtol=1e-12, atol=0)
    assert (found[~chosen] < -1e300).all()


def test_an_update_out_of_range_names_the_image():
    with pytest.raises(SegalError, match=r"00\.png, region 1 of 1: the updated network"):
        measured(HoldoutErrorChange("last", 3, 1e308), build())
