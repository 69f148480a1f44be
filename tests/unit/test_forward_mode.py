"""Derivatives along a direction through attention, and through what has no forward derivative."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segal.candidates.regions import RegionSize
from segal.functional.forward_mode import plain_attention
from segal.functional.inverse import gauss_newton_product, hessian_product
from segal.functional.labels import VOID
from segal.models.build import build_model, make_spec
from segal.signals.error_change import HoldoutErrorChange
from segal.tasks.segmentation.model import SegmentationModel
from tests.float64_network import make_bench, make_pool, make_sets

CLASSES = ("road", "building", "sky", "car", "tree")


class Attention(nn.Module):
    """Cells of eight pixels that look at each other, as a `how` of attention."""

    def __init__(self, how, width=8):
        super().__init__()
        self.how = how
        self.body = nn.Conv2d(3, width, 8, stride=8)
        self.query = nn.Conv2d(width, width, 1)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(width, 2, 16, batch_first=True)
        self.head = nn.Conv2d(width, len(CLASSES), 1)
        self.up = nn.UpsamplingBilinear2d(scale_factor=8)

    def forward(self, images):
        x = self.body(images.to(self.body.weight))
        flat, query = (t.flatten(2).movedim(1, 2) for t in (x, self.query(x)))
        if self.how == "function":
            mixed = F.scaled_dot_product_attention(query[:, None], flat[:, None], flat[:, None])
            mixed = mixed[:, 0]
        elif self.how == "module":
            mixed = self.attention(query, flat, flat, need_weights=False)[0]
        else:
            mixed = self.layer(query)
        cells = mixed.movedim(1, 2).reshape(x.shape)
        if self.how == "grid":
            grid = torch.rand(1, *x.shape[2:], 2, generator=torch.Generator().manual_seed(1))
            cells = F.grid_sample(self.query(x), (2 * grid - 1).to(x), align_corners=False)
        return self.up(self.head(cells))


def attention(how):
    torch.manual_seed(0)
    spec = make_spec("own:network", class_names=CLASSES)
    model = SegmentationModel(Attention(how), spec).double().eval()
    model.requires_grad_(False)
    return model


HOWS = ["function", "module", "layer", "grid"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("layers", ["all", "query"])
def test_tangent_agrees_with_differences(how, layers):
    model = attention(how)
    images = torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(2)).double()
    tail = model.tail(layers)
    with torch.no_grad():
        given = model(images, (layers,)).tail_input[layers]
    generator = torch.Generator().manual_seed(5)
    along = {
        name: torch.randn(p.shape, generator=generator).double()
        for name, p in tail.parameters.items()
    }
    step = 1e-5

    def moved(h):
        with plain_attention(), torch.no_grad():
            return tail.low(given, {k: p + h * along[k] for k, p in tail.parameters.items()})

    expected = (moved(step) - moved(-step)) / (2 * step)
    tangent = tail.tangent(given, along)
    scale = float(expected.abs().max())
    torch.testing.assert_close(tangent, expected, rtol=1e-6, atol=1e-7 * scale)
    assert torch.backends.mha.get_fastpath_enabled(), "as it was"


@pytest.mark.parametrize("how", HOWS)
def test_products_of_curvature_agree_with_matrices(how):
    model = attention(how)
    images = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(2)).double()
    tail = model.tail("query")
    with torch.no_grad():
        given = model(images, ("query",)).tail_input["query"]
    parameters = {k: p.detach() for k, p in tail.parameters.items()}
    names = [k for k in parameters if "query" in k]
    chosen = {k: parameters[k] for k in names}
    shapes = [parameters[k].shape for k in names]
    sizes = [s.numel() for s in shapes]

    def logits(some):
        return tail.low(given, {**parameters, **some})[0].flatten(1).T

    def of_flat(flat):
        parts = zip(names, flat.split(sizes), shapes, strict=True)
        return logits({k: part.view(shape) for k, part, shape in parts})

    flat = torch.cat([p.flatten() for p in chosen.values()])
    v = torch.randn(flat.shape, generator=torch.Generator().manual_seed(3)).double()
    along = dict(
        zip(names, (p.view(s) for p, s in zip(v.split(sizes), shapes, strict=True)), strict=True)
    )
    with plain_attention():
        jacobian = torch.autograd.functional.jacobian(of_flat, flat)
        hessian = torch.autograd.functional.hessian(lambda x: of_flat(x).logsumexp(1).sum(), flat)
    p = of_flat(flat).softmax(1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    expected = torch.einsum("nci,nck,nkj,j->i", jacobian, middle, jacobian, v)
    product = gauss_newton_product(logits, chosen, along)
    torch.testing.assert_close(torch.cat([product[k].flatten() for k in names]), expected)
    product = hessian_product(lambda some: logits(some).logsumexp(1).sum(), chosen, along)
    torch.testing.assert_close(torch.cat([product[k].flatten() for k in names]), hessian @ v)


@pytest.mark.filterwarnings("error:There is a performance drop")
@pytest.mark.parametrize("how", ["function", "module", "layer"])
def test_steps_on_regions_agree_with_a_plain_loop(how, tmp_path):
    """error_change on a tail with attention: `vmap` over regions against one step at a time."""
    model = attention(how)
    pool = make_pool(tmp_path)
    bench = make_bench(model, make_sets(pool))
    signal = HoldoutErrorChange("query", steps=1, lr=1e-2, reduce="all")
    meter = signal.prepare(bench)
    units = RegionSize.parse("16").grid(24, 36)
    images = torch.randn(1, 3, 24, 36, generator=torch.Generator().manual_seed(4)).double()
    with torch.no_grad():
        evidence = model(images, meter.catch)
        found = meter.measure(evidence, units)[0]
    tail = model.tail("query")
    parameters = {k: p.detach() for k, p in tail.parameters.items()}
    given, pseudo = evidence.tail_input["query"], evidence.logits.argmax(1)
    visits = list(bench.visit("val", ("query",)))

    def holdout(some):
        losses = [
            F.cross_entropy(
                tail(v.evidence.tail_input["query"], some, v.mask.shape[1:], v.evidence.upsampling),
                v.labels,
                ignore_index=VOID,
                reduction="none",
            )[v.mask]
            for v in visits
        ]
        return torch.cat(losses).mean()

    with plain_attention():
        before = holdout(parameters)
        for row, (x0, y0, x1, y1) in enumerate(units.boxes().tolist()):
            current = {k: p.clone().requires_grad_() for k, p in parameters.items()}
            logits = tail(given, current, (24, 36), evidence.upsampling)
            box = (slice(None), slice(y0, y1), slice(x0, x1))
            loss = F.cross_entropy(logits[:, :, y0:y1, x0:x1], pseudo[box])
            grads = torch.autograd.grad(loss, list(current.values()), allow_unused=True)
            moved = {
                k: p.detach() if g is None else p.detach() - 1e-2 * g
                for (k, p), g in zip(current.items(), grads, strict=True)
            }
            expected = holdout(moved) - before
            torch.testing.assert_close(found[row], expected.double(), rtol=1e-5, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "encoder", "options"),
    [
        ("DPT", "tu-vit_tiny_patch16_224", {"dynamic_img_size": True}),
        ("Unet", "tu-maxvit_pico_rw_256", {}),
    ],
)
def test_tangent_of_networks_that_people_use(architecture, encoder, options):
    torch.manual_seed(0)
    model = build_model(make_spec(architecture, encoder, CLASSES, options=options)).double().eval()
    model.requires_grad_(False)
    side = 256 if "256" in encoder else 224
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(2)).double()
    tail = model.tail("all")
    with torch.no_grad():
        given = model(images, ("all",)).tail_input["all"]
    generator = torch.Generator().manual_seed(5)
    along = {
        name: 0.1 * p.abs().mean() * torch.randn(p.shape, generator=generator).double()
        for name, p in tail.parameters.items()
    }

    tangent = tail.tangent(given, along)
    for _ in range(2):  # u^T (J v) is (J^T u)^T v, whatever u; exact where there are kinks too
        u = torch.randn(tangent.shape, generator=generator).double()
        parameters = {k: p.detach().requires_grad_() for k, p in tail.parameters.items()}
        backward = torch.autograd.grad(
            tail.low(given, parameters), list(parameters.values()), u, allow_unused=True
        )
        pairs = zip(backward, along.values(), strict=True)
        expected = sum((g * v).sum() for g, v in pairs if g is not None)
        torch.testing.assert_close((u * tangent).sum(), expected, rtol=1e-9, atol=1e-9)
