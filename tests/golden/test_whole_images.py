"""Closed forms on images that are one element, against autograd through the network, in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segal.candidates.regions import RegionSize
from segal.errors import SegalError
from segal.models.dropout import add_dropout, check_dropout, dropout_passes
from segal.scanning.workbench import forward
from segal.signals import KeptMass, Pseudo, RegionGradient, TopK, Truncated, Value
from segal.signals.curvature import curvature
from segal.signals.directions import ReferenceGradient
from segal.signals.dropout import DropoutValue
from segal.signals.influence import TopKDirectional
from tests import tiny_classifier
from tests.tiny_classifier import make_bench, make_model

TASKS = ("classification", "multilabel")
RULES = (Pseudo(), TopK(1))


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 12, 12, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def measured(signal, model, images):
    bench = make_bench(model)
    meter = signal.prepare(bench)
    evidence = forward(bench.task, model, images, bench.settings, meter.catch, list("abc"))
    return meter.measure(evidence, RegionSize(1, 1).grid(*evidence.logits.shape[2:]))


def losses(model, images, rule, parameters=None):
    """(B, elements): the rule's weighted cross-entropy, its weights held fixed."""
    inputs = model.normalise(images).double()
    z = (
        model.network(inputs)
        if parameters is None
        else torch.func.functional_call(model.network, parameters, (inputs,))
    )
    several = model.spec.task == "multilabel"
    z = (
        torch.stack([torch.zeros_like(z), z], 2) if several else z[:, None]
    )  # (B, elements, classes)
    p = z.detach().softmax(-1)
    ranks = p.argsort(-1, descending=True).argsort(-1)
    if isinstance(rule, Pseudo):
        weights = (ranks == 0).to(p)
    elif isinstance(rule, TopK):
        weights = torch.where(ranks < rule.count, p, 0)
    else:
        raise AssertionError(rule)
    return -(weights * z.log_softmax(-1)).sum(-1)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
@pytest.mark.parametrize("layers", ["last", "all"])
def test_gradients_of_elements(task, rule, layers, images):
    model = make_model(task)
    got = measured(RegionGradient(layers, rule, bias=True), model, images)
    names = (
        [n for n, _ in model.network.named_parameters() if n.startswith("classifier.1.")]
        if layers == "last"
        else [n for n, _ in model.network.named_parameters()]
    )
    parameters = [model.network.get_parameter(n) for n in names]
    each = losses(model, images, rule)
    assert got.shape[:2] == each.shape
    for image in range(len(each)):
        for element in range(each.shape[1]):
            grads = torch.autograd.grad(each[image, element], parameters, retain_graph=True)
            expected = torch.cat([g.flatten() for g in grads])
            torch.testing.assert_close(got[image, element], expected, rtol=1e-9, atol=1e-12)


def test_badge_is_the_outer_product(images):
    model = make_model()
    got = measured(RegionGradient(), model, images)[:, 0]
    with torch.no_grad():
        inputs = model.normalise(images).double()
        p, f = model.network(inputs).softmax(1), model.network.features(inputs)
    residual = p - F.one_hot(p.argmax(1), 4)
    torch.testing.assert_close(got, torch.einsum("bc,bd->bcd", residual, f).flatten(1))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("layers", ["last", "all", "stage2"])
def test_tangents(task, layers, images):
    model = make_model(task)
    tail = model.tail(layers)
    assert (tail.affine is not None) == (layers == "last" and task == "classification")
    generator = torch.Generator().manual_seed(2)
    along = {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in tail.parameters.items()
    }
    inputs = model.normalise(images).double()
    with torch.no_grad():
        evidence = model(inputs, (layers,))
    got = tail.tangent(evidence.tail_input[layers], along)
    strip = "network." if tail.replays else "0."
    prefix = "" if tail.replays else "classifier.1.conv."
    own = {prefix + name.removeprefix(strip): v for name, v in tail.parameters.items()}
    moved = {prefix + name.removeprefix(strip): v for name, v in along.items()}

    def logits(parameters):
        return torch.func.functional_call(model.network, parameters, (inputs,))

    detached = {name: value.detach() for name, value in own.items()}
    _, expected = torch.func.jvp(logits, (detached,), (moved,))
    expected = expected[:, :, None, None]
    if task == "multilabel":
        expected = torch.cat([torch.zeros_like(expected), expected], 2).movedim(2, 1)[..., 0][
            ..., None
        ]
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_kept_mass_is_of_the_image(images):
    model = make_model()
    got = measured(KeptMass(Truncated(0.3)), model, images)
    assert got.shape == (3, 1)
    with torch.no_grad():
        p = model.network(model.normalise(images).double()).softmax(1)
    torch.testing.assert_close(got[:, 0], torch.where(p >= 0.3, p, 0).sum(1))


def test_values_are_those_of_plain_probabilities(images):
    for task in TASKS:
        model = make_model(task)
        got = measured(Value("entropy"), model, images)
        with torch.no_grad():
            z = model.network(model.normalise(images).double())
        if task == "multilabel":
            p = torch.stack([1 - z.sigmoid(), z.sigmoid()])
            expected = -(p * p.log()).sum(0)
        else:
            expected = torch.distributions.Categorical(logits=z).entropy()[:, None]
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("task", TASKS)
def test_curvature_of_a_set_of_images(task):
    """The Hessian of the mean loss, by autograd: for the last layer it is all Gauss-Newton."""
    model = make_model(task)
    bench = make_bench(model)
    found = curvature(bench, "val", "last", None)
    pool = bench.images("val").pool
    images = torch.stack([torch.from_numpy(pool.read(i)) for i in range(len(pool))])
    labels = torch.stack([torch.from_numpy(pool.read_label(i)).long() for i in range(len(pool))])
    with torch.no_grad():
        f = model.network.features(model.normalise(images).double())
    weight, bias = (model.head.weight.detach().flatten(1), model.head.bias.detach())
    split = weight.numel()

    def loss(flat):
        z = f @ flat[:split].view_as(weight).T + flat[split:]
        if task == "multilabel":
            return F.binary_cross_entropy_with_logits(z, labels[..., 0].double())
        return F.cross_entropy(z, labels[:, 0, 0])

    flat = torch.cat([weight.flatten(), bias])
    hessian = torch.autograd.functional.hessian(loss, flat)
    vector = torch.randn(len(flat), dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    names = list(model.tail("last").parameters)
    parts = {names[0]: vector[:split].view(*weight.shape, 1, 1), names[1]: vector[split:]}
    product = found.unflatten(found.product(found.flatten(parts)))
    got = torch.cat([product[name].flatten() for name in names])
    torch.testing.assert_close(got, hessian @ vector, rtol=1e-7, atol=1e-10)


def test_each_label_is_of_two_classes():
    """With both of them weighted by their probability a gradient is identically zero."""
    signal = TopKDirectional(ReferenceGradient("val", "last"), TopK(2))
    signal.check(make_model())
    with pytest.raises(SegalError, match="2 of 2 classes"):
        signal.check(make_model("multilabel"))


def test_dropout_before_the_last_layer(images):
    model = make_model()
    model.network.dropout.p = 0.0
    add_dropout(model.head, 0.5)
    check_dropout(model)
    assert list(model.network.state_dict()) == list(tiny_classifier.build(4).state_dict())
    inputs = model.normalise(images[:1]).double()
    drawn = lambda call: np.random.default_rng(7)  # noqa: E731
    with dropout_passes(model) as run:
        got = run(inputs, drawn)
    mask = torch.from_numpy(np.random.default_rng(7).random((1, 7), dtype=np.float32) < 0.5)
    with torch.no_grad():
        f = model.network.features(inputs) * mask / 0.5
        expected = f @ model.head.weight.flatten(1).T + model.head.bias
    torch.testing.assert_close(got[:, :, 0, 0], expected)
    scores = measured(DropoutValue("bald", 5), model, images)
    assert (scores > 0).all()
