"""Gradients of sets, the Hessian from a sample of pixels, and how its inverse is taken."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from segal.data.image_sets import ImageSet
from segal.errors import SegalError
from segal.signals.curvature import curvature
from segal.signals.directions import Influence, Inverse, ReferenceGradient, set_loss
from segal.tasks.segmentation.task import Segmentation
from tests.float64_network import (
    Labels,
    dense,
    flatten,
    gauss_newton,
    make_bench,
    make_model,
    make_pool,
    make_sets,
    unflatten,
)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return make_sets(make_pool(tmp_path_factory.mktemp("images")))


@pytest.mark.parametrize("layers", ["last", "last_two", "all"])
@pytest.mark.parametrize("of", ["val", "labelled", "pool"])
def test_the_gradient_of_a_set_is_that_of_its_mean_loss(model, sets, layers, of):
    bench = make_bench(model, sets, batch_size=2)
    logits, at, labels = dense(bench, of, layers)
    loss = F.cross_entropy(logits(at), labels)
    expected = torch.func.grad(lambda theta: F.cross_entropy(logits(theta), labels))(at)
    found = set_loss(bench, of, layers)
    assert found.pixels == len(labels)
    assert found.mean == pytest.approx(loss.item(), rel=1e-12)
    gradient = ReferenceGradient(of, layers).vector(bench)
    assert list(gradient) == list(model.tail(layers).parameters)
    torch.testing.assert_close(flatten(gradient), expected, rtol=1e-9, atol=1e-15)


def test_parameters_that_no_logit_depends_on_have_a_gradient_of_zero(sets):
    model = make_model()
    expected = ReferenceGradient("val", "all").vector(make_bench(model, sets))
    model = make_model()
    model.network.idle = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    found = dict(ReferenceGradient("val", "all").vector(make_bench(model, sets)))
    assert found.pop("network.idle").tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(found, dict(expected))


@pytest.mark.parametrize("layers", ["last", "last_two", "all"])
@pytest.mark.parametrize("pixels", [100_000, None])
def test_the_hessian_of_all_pixels_is_the_dense_one(model, sets, layers, pixels):
    bench = make_bench(model, sets, batch_size=2)
    logits, at, _ = dense(bench, "labelled", layers)
    expected = gauss_newton(logits, at)
    found = curvature(bench, "labelled", layers, pixels)
    assert found.pixels == len(logits(at))
    direction = torch.randn(len(at), dtype=torch.float64)
    named = unflatten(model.tail(layers), direction)
    vector = found.flatten(named)
    back = found.unflatten(vector)
    assert all(torch.equal(back[name], named[name]) for name in named)
    product = flatten(found.unflatten(found.product(vector)))
    torch.testing.assert_close(product, expected @ direction, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(
        found.product(vector, torch.arange(found.pixels)), found.product(vector)
    )
    chosen = torch.tensor([0, 5, 9, found.pixels - 1])
    one_by_one = [found.product(vector, chosen[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(found.product(vector, chosen), torch.stack(one_by_one).mean(0))
    twice = found.product(vector, torch.tensor([5, 5, 9]))
    torch.testing.assert_close(twice, (2 * one_by_one[1] + one_by_one[2]) / 3)


@pytest.mark.parametrize("method", ["cg", "cholesky"])
def test_influence_is_the_inverse_of_the_dense_hessian_times_the_gradient(model, sets, method):
    bench = make_bench(model, sets, batch_size=2)
    logits, at, _ = dense(bench, "labelled", "last")
    gradient = flatten(ReferenceGradient("val", "last").vector(bench))
    damped = gauss_newton(logits, at) + 0.03 * torch.eye(len(at), dtype=torch.float64)
    inverse = Inverse(method, damping=0.03, tolerance=1e-13, pixels=100_000)
    found = flatten(Influence("val", "last", inverse).vector(bench))
    torch.testing.assert_close(found, torch.linalg.solve(damped, gradient), rtol=1e-9, atol=1e-12)


def test_influence_of_two_layers(model, sets):
    bench = make_bench(model, sets)
    logits, at, _ = dense(bench, "labelled", "last_two")
    gradient = flatten(ReferenceGradient("pool", "last_two").vector(bench))
    damped = gauss_newton(logits, at) + 0.1 * torch.eye(len(at), dtype=torch.float64)
    inverse = Inverse("cg", damping=0.1, tolerance=1e-12, pixels=100_000)
    found = flatten(Influence("pool", "last_two", inverse).vector(bench))
    torch.testing.assert_close(found, torch.linalg.solve(damped, gradient), rtol=1e-8, atol=1e-12)


def test_lissa_estimates_the_same_vector(model, sets):
    bench = make_bench(model, sets)
    exact = flatten(Influence("val", "last", Inverse("cholesky", damping=1.0)).vector(bench))
    lissa = Inverse("lissa", damping=0.02, scale=50.0, samples=400, batch=64, corrected=True)
    found = flatten(Influence("val", "last", lissa).vector(bench))
    assert float((found - exact).norm() / exact.norm()) < 0.05
    plain = flatten(
        Influence("val", "last", dataclasses.replace(lissa, corrected=False)).vector(bench)
    )
    torch.testing.assert_close(plain, 50.0 * found)


def test_without_a_hessian_influence_is_the_gradient(model, sets):
    bench = make_bench(model, sets)
    same = Influence("val", "last", Inverse("identity"))
    assert torch.equal(
        flatten(same.vector(bench)), flatten(ReferenceGradient("val", "last").vector(bench))
    )
    assert {need.of for need in same.needs} == {"val"}
    assert {need.of for need in Influence().needs} == {"val", "labelled"}


@pytest.mark.parametrize("settings", [{"batch_size": 2}, {"workers": 0}, {"workers": 3}])
def test_batches_and_workers_change_nothing(model, sets, settings):
    influence = Influence("val", "last_two", Inverse("cg", damping=0.1, pixels=60))
    first = influence.vector(make_bench(model, sets))
    other = influence.vector(make_bench(model, sets, **settings))
    torch.testing.assert_close(flatten(other), flatten(first), rtol=1e-9, atol=1e-12)
    drawn_otherwise = influence.vector(make_bench(model, sets, seed=1))
    assert float((flatten(drawn_otherwise) - flatten(first)).abs().max()) > 1e-6


def test_names_tell_every_parameter_apart():
    inverses = [
        Inverse("identity"),
        Inverse("cg"),
        Inverse("cg", damping=0.02),
        Inverse("cg", tolerance=1e-3),
        Inverse("cg", max_iterations=5),
        Inverse("cg", pixels=5),
        Inverse("cg", pixels=None),
        Inverse("cholesky"),
        Inverse("lissa"),
        Inverse("lissa", samples=5),
        Inverse("lissa", repeats=5),
        Inverse("lissa", batch=5),
        Inverse("lissa", scale=5.0),
        Inverse("lissa", corrected=True),
    ]
    directions = [
        ReferenceGradient("val", "last"),
        ReferenceGradient("labelled", "last"),
        ReferenceGradient("val", "last_two"),
        *(Influence("val", "last", inverse) for inverse in inverses),
        Influence("pool", "last"),
        Influence("val", "last_two"),
        Influence("val", "last", hessian="val"),
    ]
    assert len({direction.name for direction in directions}) == len(directions)
    assert len(set(directions)) == len(directions)
    for direction in directions:
        assert direction.name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        assert len(direction.name) < 120


def test_an_empty_or_unlabelled_set_is_refused(model, sets):
    void = Labels()
    for label in void.maps:
        label[:] = 255
    for broken, problem in (
        (ImageSet(sets["val"].pool, void), "not one pixel"),
        (ImageSet(sets["val"].pool, None), "labels are unknown"),
        (ImageSet(sets["val"].pool, void, inside={}), "none"),
    ):
        bench = make_bench(model, {**sets, "val": broken})
        with pytest.raises(SegalError, match=problem):
            ReferenceGradient("val", "last").vector(bench)
    bench = make_bench(model, {**sets, "labelled": ImageSet(sets["val"].pool, void)})
    with pytest.raises(SegalError, match="not one pixel"):
        Influence("val", "last").vector(bench)


class Broken(Segmentation):
    """Makes a NaN of the second image of a batch."""

    def evidence(self, model, images, catch=()):
        found = super().evidence(model, images, catch)
        found.tail_input["last"][1:] = torch.nan
        return found


def test_a_gradient_that_is_no_number_names_the_image(model, sets):
    bench = dataclasses.replace(make_bench(model, sets, batch_size=2), task=Broken())
    with pytest.raises(SegalError, match=r"(?s)not finite.*at 1\.png\n"):
        ReferenceGradient("val", "last").vector(bench)


class BrokenLogits(Segmentation):
    """Makes a NaN of one logit of the last image of a batch."""

    def evidence(self, model, images, catch=()):
        found = super().evidence(model, images, catch)
        found.logits[-1, 0, 3, 4] = torch.nan
        return found


@pytest.mark.parametrize("method", ["cg", "lissa"])
def test_a_hessian_of_no_number_names_the_image_and_blames_no_damping(model, sets, method):
    bench = dataclasses.replace(make_bench(model, sets, batch_size=2), task=BrokenLogits())
    with pytest.raises(SegalError, match=r"(?s)labelled regions.*at 0\.png\n") as caught:
        curvature(bench, "labelled", "last", 50)
    assert "damping" not in str(caught.value)
    with pytest.raises(SegalError, match="reference set: the network's logits are not finite"):
        Influence("val", "last", Inverse(method)).vector(bench)


def test_what_cannot_be_inverted_says_what_to_do(model, sets):
    bench = make_bench(model, sets)
    with pytest.raises(SegalError, match=r"strategy\.damping=0\.01"):
        Influence("val", "last", Inverse("cholesky", damping=0.0)).vector(bench)
    with pytest.raises(SegalError, match=r"strategy\.damping=0\.01"):
        Influence("val", "last", Inverse("cg", damping=0.0, pixels=3)).vector(bench)
    with pytest.raises(SegalError, match=r"(?s)diverges.*strategy\.scale=0\.1"):
        Influence("val", "last", Inverse("lissa", damping=0.0, scale=0.01)).vector(bench)
    with pytest.raises(SegalError, match=r"(?s)cholesky.*inverse=cg"):
        Influence("val", "last_two", Inverse("cholesky")).vector(bench)
    with pytest.raises(SegalError, match=r"(?s)a sample of pixels.*every pixel.*inverse=cg"):
        Influence("val", "last", Inverse("cholesky", pixels=None)).vector(bench)


def test_conjugate_gradients_that_end_early_say_so(model, sets):
    bench = make_bench(model, sets)
    Influence("val", "last", Inverse("cg", damping=1e-6, max_iterations=1)).vector(bench)
    assert any("after 1 iterations" in note for note in bench.notes)
