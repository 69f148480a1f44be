"""Error change and expected-error reduction against real steps of a real network, in float64."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

from segal.candidates.regions import RegionSize
from segal.candidates.table import CandidateTable
from segal.data.datasets import open_dataset
from segal.data.image_sets import ImageSet
from segal.errors import SegalError
from segal.models.build import build_model, make_spec
from segal.models.spec import ModelSpec
from segal.scanning.scan import Scan
from segal.scanning.workbench import Bench, ScanSettings
from segal.signals import pixel_sample, pixels, region_updates
from segal.signals.error_change import NOT_MEASURED, HoldoutErrorChange, Prefilter, UpdatedEntropy
from segal.signals.pixel_sample import EVERY_PIXEL, SampleSize
from segal.signals.region_updates import RegionUpdates
from segal.strategies.base import PassContext
from segal.strategies.error_change import ErrorChange
from segal.tasks.segmentation.model import SegmentationModel
from segal.tasks.segmentation.task import Segmentation
from tests.conftest import CLASSES, write_image

VOID = 255
LR = 1e-2


def make_data(root, sizes, classes, seed=0):
    """Images with random blocks of labels, a part of them void."""
    rng = np.random.default_rng(seed)
    for split in ("val", "train"):
        for i, (height, width) in enumerate(sizes):
            write_image(root / "images" / split / f"{i}.png", height, width, seed + i + len(split))
            label = rng.integers(0, classes, (height // 6 + 1, width // 6 + 1), dtype=np.uint8)
            label = label.repeat(6, 0).repeat(6, 1)[:height, :width].copy()
            label[: height // 3, : width // 4] = VOID
            file = root / "labels" / split / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(label).save(file)
    (root / "classes.txt").write_text("\n".join(CLASSES[:classes]) + "\n")
    return open_dataset(root, "val"), open_dataset(root, "train")


def make_model(architecture, classes, sharpness):
    """With random weights; the sharper, the more predictions differ from pixel to pixel."""
    torch.manual_seed(0)
    model = build_model(make_spec(architecture, "resnet18", CLASSES[:classes])).double().eval()
    with torch.no_grad():
        model.head.weight *= sharpness
    return model


@pytest.fixture(scope="module")
def deeplab():
    return make_model("DeepLabV3Plus", len(CLASSES), sharpness=12.0)


@pytest.fixture(scope="module")
def tiny():
    """A network of two convolutions and a BatchNorm."""
    torch.manual_seed(0)
    model = build_model(make_spec("tests.tiny_network:build", "", CLASSES)).double().eval()
    with torch.no_grad():
        model.head.weight *= 12
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), [(37, 52), (32, 48)], len(CLASSES))


def make_bench(model, data, batch_size=1, seed=0):
    val, train = data
    sets = {"val": ImageSet(val.pool, val), "pool": ImageSet(train.pool)}
    settings = ScanSettings(torch.device("cpu"), batch_size=batch_size)
    return Bench(model, Segmentation(), settings, sets, seed)


def measured(signal, model, data, region, image=0, **options):
    """(units,) of one image of the pool."""
    meter = signal.prepare(make_bench(model, data, **options))
    with torch.no_grad():
        pixels = torch.from_numpy(data[1].pool.read(image))[None]
        evidence = model(model.normalise(pixels), meter.catch)
    units = RegionSize.parse(region).grid(*data[1].pool.size(image))
    return meter.measure(evidence, units)[0].numpy()


def network_input(model, dataset, index):
    return model.normalise(torch.from_numpy(dataset.pool.read(index))[None])


def trained_layers(model, layers):
    """The parameters that are updated, named by hand."""
    network = model.network
    if layers == "all":
        return list(network.parameters())
    head = list(network.segmentation_head[0].parameters())
    if layers == "last":
        return head
    if hasattr(network.decoder, "block2"):
        return head + list(network.decoder.block2[0][1].parameters())
    return head + list(network.decoder.blocks[-1].conv2[0].parameters())


def real_update(model, layers, inputs, box, steps=3, lr=LR):
    """A copy of the network, trained on one region of one image with its own labels."""
    trained = copy.deepcopy(model).requires_grad_(False)
    x0, y0, x1, y1 = box
    with torch.no_grad():
        target = trained(inputs).logits.argmax(1)
    masked = torch.full_like(target, VOID)
    masked[:, y0:y1, x0:x1] = target[:, y0:y1, x0:x1]
    chosen = trained_layers(trained, layers)
    optimiser = torch.optim.SGD([p.requires_grad_() for p in chosen], lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(trained(inputs).logits, masked, ignore_index=VOID).backward()
        optimiser.step()
    return trained


def holdout_losses(model, val):
    """Cross-entropy of every labelled pixel of the reference set."""
    losses = []
    with torch.no_grad():
        for i in range(len(val)):
            logits = model(network_input(model, val, i)).logits
            label = torch.from_numpy(val.read_label(i)).long()[None]
            loss = F.cross_entropy(logits, label, ignore_index=VOID, reduction="none")
            losses.append(loss[label != VOID])
    return torch.cat(losses)


def brute_force(model, data, layers, region, lr=LR):
    """(units,) of the first image of the pool, by how the holdout's pixels are reduced."""
    val, train = data
    inputs, before = network_input(model, train, 0), holdout_losses(model, val)
    positive, everything = [], []
    for box in RegionSize.parse(region).grid(*train.pool.size(0)).boxes().tolist():
        change = holdout_losses(real_update(model, layers, inputs, box, lr=lr), val) - before
        positive.append(float(change[change > 0].mean()))
        everything.append(float(change.mean()))
    return {"positive": np.array(positive), "all": np.array(everything)}


@pytest.mark.parametrize("layers", ["last", "last_two"])
def test_equals_real_steps_of_the_real_network(deeplab, data, layers):
    # 24 divides neither side of 37 x 52; the edge regions are clipped.
    for reduce, expected in brute_force(deeplab, data, layers, "24").items():
        got = measured(HoldoutErrorChange(layers, lr=LR, reduce=reduce), deeplab, data, "24")
        assert np.ptp(expected) > 0.1 * np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("layers", ["last", "last_two"])
def test_equals_real_steps_where_the_last_layers_look_around(tmp_path, layers):
    # Unet: convolutions of 3 x 3 that pad with zeros, at the resolution of the image.
    model, data = make_model("Unet", 3, sharpness=3.0), make_data(tmp_path, [(26, 32)], 3)
    expected = brute_force(model, data, layers, "16x24")["positive"]
    for holdout in (EVERY_PIXEL, SampleSize(10**6)):
        signal = HoldoutErrorChange(layers, lr=LR, holdout=holdout)
        np.testing.assert_allclose(measured(signal, model, data, "16x24"), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "lr"), [("tiny", 1e-2), pytest.param("deeplab", 1e-4, marks=pytest.mark.slow)]
)
def test_all_layers_take_real_steps_on_whole_images(request, data, name, lr):
    model = request.getfixturevalue(name)
    expected = brute_force(model, data, "all", "20x32", lr=lr)["positive"]
    assert np.ptp(expected) > 0.1 * np.abs(expected).max()
    for holdout in (EVERY_PIXEL, SampleSize(10**6)):
        signal = HoldoutErrorChange("all", lr=lr, holdout=holdout)
        got = measured(signal, model, data, "20x32", batch_size=2)
        np.testing.assert_allclose(got, expected, rtol=1e-7)


def test_a_sample_for_all_layers_is_that_for_the_last(deeplab, data):
    """The same pixels, kept with the maps of their images; those of images with none are not."""
    of_last, of_all = (
        RegionUpdates.on(make_bench(deeplab, data), "val", layers, SampleSize(20), 1, LR).pixels
        for layers in ("last", "all")
    )
    assert all(isinstance(part, pixels.PixelMap) and len(part.index) for part in of_all)
    for got, expected in (
        ([part.before for part in of_all], [part.before for part in of_last]),
        ([part.labels for part in of_all], [part.labels for part in of_last]),
    ):
        torch.testing.assert_close(torch.cat(got), torch.cat(expected))


@pytest.mark.parametrize("layers", ["last", "last_two"])
def test_a_sample_of_all_pixels_is_the_exact_mode(deeplab, data, layers):
    exact = measured(HoldoutErrorChange(layers, lr=LR), deeplab, data, "20x32")
    sampled = HoldoutErrorChange(layers, lr=LR, holdout=SampleSize(10**6))
    np.testing.assert_allclose(measured(sampled, deeplab, data, "20x32"), exact, rtol=1e-9)


def test_regions_together_are_regions_one_by_one(deeplab, data, monkeypatch):
    sample = SampleSize(30)
    signals = [HoldoutErrorChange(lr=LR, holdout=sample), UpdatedEntropy(lr=LR, sample=sample)]
    together = [measured(signal, deeplab, data, "16") for signal in signals]
    for module in (region_updates, pixel_sample):
        monkeypatch.setattr(module, "WORKING_BYTES", 1)
    for signal, expected in zip(signals, together, strict=True):
        np.testing.assert_allclose(measured(signal, deeplab, data, "16"), expected, rtol=1e-9)


def test_as_many_regions_at_a_time_as_memory_takes(deeplab, data, monkeypatch):
    """However many there are."""
    updates = RegionUpdates.on(make_bench(deeplab, data), "val", "last", SampleSize(20), 1, LR)
    (part,) = updates.pixels
    parameters = pixels.constants(updates.tail)
    cells = part.inputs.numel() // part.inputs.shape[1]
    each = pixels.work_bytes(parameters, part.inputs.shape[1], cells)
    each += 6 * part.before.numel() * part.before.element_size()
    monkeypatch.setattr(region_updates, "WORKING_BYTES", 3 * each)
    taken = []

    def gather(_, after):
        taken.append(len(after))
        return after.new_zeros(1, len(after))

    for count in (2, 8):
        updated = {name: torch.stack([value] * count) for name, value in parameters.items()}
        updates._gathered(part, updated, gather)
    assert taken == [2, 3, 3, 2]


def test_a_sample_does_not_depend_on_batches_but_on_the_seed(deeplab, data):
    signal = HoldoutErrorChange("last", lr=LR, holdout=SampleSize(50))
    first = measured(signal, deeplab, data, "24")
    np.testing.assert_array_equal(measured(signal, deeplab, data, "24", batch_size=2), first)
    assert not np.allclose(measured(signal, deeplab, data, "24", seed=1), first, rtol=1e-3)


@pytest.mark.parametrize("layers", ["last", "last_two"])
def test_error_reduction_equals_real_steps_of_the_real_network(deeplab, data, layers):
    pool = data[1]
    inputs, expected = network_input(deeplab, pool, 0), []
    for box in RegionSize.parse("20x32").grid(*pool.pool.size(0)).boxes().tolist():
        updated = real_update(deeplab, layers, inputs, box, steps=1)
        with torch.no_grad():
            logits = [updated(network_input(updated, pool, i)).logits for i in range(len(pool))]
        flat = torch.cat([z.flatten(2)[0] for z in logits], 1)
        p = flat.softmax(0)
        expected.append(float(-(p * p.log()).sum(0).mean()))
    assert np.ptp(expected) > 1e-4
    for sample in (EVERY_PIXEL, SampleSize(10**6)):
        signal = UpdatedEntropy(layers, lr=LR, sample=sample)
        got = measured(signal, deeplab, data, "20x32")
        np.testing.assert_allclose(got, expected, rtol=1e-9)


# The first order


class Pointwise(nn.Conv2d):
    """A linear classifier of pixels: three channels to logits, at the image's resolution."""

    def __init__(self, classes):
        super().__init__(3, classes, 1, bias=False)


@pytest.fixture
def toy(tmp_path):
    """A linear classifier of pixels into two classes: the setting of the paper's eqs. 14-16."""
    torch.manual_seed(1)
    spec = ModelSpec("toy", "", CLASSES[:2], (0.0,) * 3, (0.5,) * 3, 1)
    model = SegmentationModel(Pointwise(2), spec).double().eval()
    return model, make_data(tmp_path, [(16, 17)], 2, seed=3)


def per_pixel_gradients(model, data):
    """Of the holdout by their labels, (n, P), and of the pool by its own labels, (m, P)."""
    network, (val, train) = model.network, data
    found = []
    for dataset, own in ((val, False), (train, True)):
        phi = network_input(model, dataset, 0)[0].flatten(1).T
        logits = phi @ network.weight[:, :, 0, 0].T
        label = torch.from_numpy(dataset.read_label(0)).long().flatten()
        label = logits.argmax(1) if own else label
        rows = []
        for i in range(len(phi)):
            if label[i] == VOID:
                continue
            loss = F.cross_entropy(logits[i][None], label[i][None])
            (gradient,) = torch.autograd.grad(loss, network.weight, retain_graph=True)
            rows.append(gradient.flatten())
        found.append(torch.stack(rows))
    return found


def test_tends_to_the_kernel_form_of_eq_14(toy):
    model, data = toy
    holdout, pool = per_pixel_gradients(model, data)
    # Every pixel is a candidate. Ours is the mean over the holdout where eq. 4 sums.
    kernel = -(pool @ holdout.T).sum(1).numpy() / len(holdout)
    steps, scale = 3, np.abs(kernel).max()
    errors = []
    for lr in (1e-2, 1e-3):
        signal = HoldoutErrorChange("last", steps=steps, lr=lr, reduce="all")
        got = measured(signal, model, data, "1") / (steps * lr)
        errors.append(np.abs(got - kernel).max() / scale)
    assert errors[0] < 0.2
    assert errors[1] < 0.12 * errors[0]  # the error is of the order of the step


def test_binary_case_equals_eq_16(toy):
    model, data = toy
    weight = model.network.weight[:, :, 0, 0].detach()
    theta = (weight[1] - weight[0]).numpy()
    phi_v, phi_p = (network_input(model, d, 0)[0].flatten(1).T.numpy() for d in data)
    y_v = data[0].read_label(0).flatten()
    phi_v, y_v = phi_v[y_v != VOID], y_v[y_v != VOID]
    z_v, z_p = phi_v @ theta, phi_p @ theta
    sigma_v, sigma_p = 1 / (1 + np.exp(-z_v)), 1 / (1 + np.exp(-z_p))
    of_pool = (sigma_p - (z_p > 0))[:, None] * phi_p
    eq_16 = -(of_pool @ ((sigma_v - y_v)[:, None] * phi_v).T).sum(1)
    # A softmax of two classes moves both rows of the weights, by opposite amounts: twice eq. 16.
    lr = 1e-6
    got = measured(HoldoutErrorChange("last", steps=1, lr=lr, reduce="all"), model, data, "1") / lr
    np.testing.assert_allclose(got, 2 * eq_16 / len(y_v), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reduce", ["positive", "all"])
def test_tends_to_the_directional_derivatives(deeplab, data, reduce):
    """S / (k lr) -> S_a; with `positive`, to the mean of the derivatives that are positive."""
    val, train = data
    tail = deeplab.tail("last_two")
    parameters = {name: value.detach() for name, value in tail.parameters.items()}

    def losses(p):
        found = []
        for i in range(len(val)):
            evidence = deeplab(network_input(deeplab, val, i), ("last_two",))
            caught = evidence.tail_input["last_two"].detach()
            logits = tail(caught, p, val.pool.size(i), evidence.upsampling)
            label = torch.from_numpy(val.read_label(i)).long()[None]
            loss = F.cross_entropy(logits, label, ignore_index=VOID, reduction="none")
            found.append(loss[label != VOID])
        return torch.cat(found)

    expected = []
    for x0, y0, x1, y1 in RegionSize.parse("24").grid(*train.pool.size(0)).boxes().tolist():
        logits = deeplab(network_input(deeplab, train, 0)).logits[:, :, y0:y1, x0:x1]
        loss = F.cross_entropy(logits, logits.argmax(1))
        slope = torch.autograd.grad(loss, list(tail.parameters.values()))
        down = {name: -g for name, g in zip(parameters, slope, strict=True)}
        _, rise = torch.func.jvp(losses, (parameters,), (down,))
        rise = rise.detach()
        expected.append(float((rise[rise > 0] if reduce == "positive" else rise).mean()))
    medians = []
    for lr in (1e-3, 1e-4):
        got = measured(HoldoutErrorChange(lr=lr, reduce=reduce), deeplab, data, "24") / (3 * lr)
        medians.append(np.median(np.abs(got / np.array(expected) - 1)))
    assert medians[0] < 0.1
    assert medians[1] < 0.12 * medians[0]


# The prefilter


@pytest.mark.parametrize("reduce", ["positive", "all"])
def test_a_prefilter_leaves_out_what_the_first_order_ranks_low(deeplab, data, reduce):
    signal = HoldoutErrorChange(lr=LR, reduce=reduce, holdout=SampleSize(200))
    full = measured(signal, deeplab, data, "16")
    first = measured(signal.guide, deeplab, data, "16")
    first = signal.guide_scores(torch.from_numpy(first)).numpy()
    assert spearmanr(first, full).statistic > 0.9
    threshold = np.sort(first)[-5]
    filtered = dataclasses.replace(signal, prefilter=Prefilter(5 / 12, threshold))
    got = measured(filtered, deeplab, data, "16")
    assert (got > NOT_MEASURED).sum() == 5
    np.testing.assert_allclose(got[first >= threshold], full[first >= threshold], rtol=1e-9)
    assert filtered.column != signal.column


def test_a_guide_that_is_a_column_too_is_measured_once(deeplab, data, monkeypatch):
    signal = HoldoutErrorChange(lr=LR, holdout=SampleSize(20), prefilter=Prefilter(0.5, 0.0))
    bench, taken, sums = make_bench(deeplab, data), [], RegionUpdates.sums
    meters = [each.prepare(bench) for each in (signal.guide, signal)]
    monkeypatch.setattr(
        RegionUpdates, "sums", lambda self, *a: taken.append(self.steps) or sums(self, *a)
    )
    with torch.no_grad():
        evidence = deeplab(network_input(deeplab, data[1], 0), meters[0].catch)
    for meter in meters:
        meter.measure(evidence, RegionSize(24, 24).grid(*data[1].pool.size(0)))
    assert taken == [1, 3]


@pytest.mark.parametrize("reduce", ["positive", "all"])
def test_strategy_measures_the_share_asked_for_and_ranks_the_rest_after(
    deeplab, data, tmp_path, reduce
):
    strategy = ErrorChange(lr=LR, reduce=reduce, holdout_pixels=200, prefilter=0.3)
    context = PassContext()
    bench = make_bench(deeplab, data)
    for number, signals in enumerate(strategy.passes(context)):
        scan = Scan(
            data[1].pool, bench.task, [RegionSize(16, 16)], bench.settings, signals, deeplab
        )
        dataclasses.replace(scan, sets=bench.sets).run(tmp_path / str(number))
        context.tables.append(CandidateTable.open(tmp_path / str(number) / "16"))
    tables = context.tables
    assert len(tables) == 2
    table, count = tables[1], len(tables[1])
    nothing = table.view(np.zeros(0, np.int64), np.zeros(0, np.int64))
    picks = strategy.select(table, nothing, count, torch.Generator())
    signal = strategy._signal()
    guide = {"positive": "error_change-last_two-1x", "all": "directional"}[reduce]
    assert signal.guide.column.startswith(guide)
    column = table.values[signal.column]
    first = table.values[signal.guide.column] * {"positive": 1, "all": -1}[reduce]
    np.testing.assert_array_equal(
        table.values[signal.guide.column], tables[0].values[signal.guide.column]
    )
    top = int(np.ceil(0.3 * count))
    best = np.argsort(-first)[:top]
    assert set(picks.rows[:top]) == set(best)
    np.testing.assert_array_equal(picks.scores[:top], np.sort(column[best])[::-1])
    rest = np.sort(first)[::-1][top:]
    np.testing.assert_array_equal(picks.scores[top:], rest)
    assert picks.notes == (
        f"{count - top} of the {count} picks rank by the first order of S: "
        f"the prefilter measured {top} of the {count} candidates on offer.",
    )


def test_the_guide_looks_at_few_pixels_or_as_many_of_each_class_as_the_score():
    for holdout, expected in (
        (EVERY_PIXEL, SampleSize(1000)),
        (SampleSize(300), SampleSize(300)),
        (SampleSize(None, 7), SampleSize(None, 7)),
    ):
        guide = HoldoutErrorChange(holdout=holdout, prefilter=Prefilter(0.5)).guide
        assert (guide.holdout, guide.steps, guide.prefilter) == (expected, 1, None)


def test_the_share_is_of_what_is_on_offer():
    """What is bought does not take the place of what can be."""
    strategy = ErrorChange(reduce="all", prefilter=0.5)
    [signal] = next(strategy.passes(PassContext()))
    column = np.array([-9.0, -8.0, -7.0, -6.0, -1.0, -4.0, -3.0, -2.0])  # minus S_a
    nothing = np.zeros(8, np.int32)
    table = CandidateTable(
        ("a.png",), nothing, np.zeros((8, 4), np.int32), nothing + 1, {signal.column: column}
    )
    for offered, threshold in ((None, 6.0), (np.array([4, 5, 6, 7]), 3.0), (np.array([4]), 1.0)):
        context = PassContext([], offered)
        passes = strategy.passes(context)
        next(passes)
        context.tables.append(table)
        _, filtered = next(passes)
        assert filtered.prefilter == Prefilter(0.5, threshold)


# What is refused


def test_an_update_out_of_range_names_the_region_and_the_step_size(deeplab, data):
    signal = HoldoutErrorChange("last", lr=1e308, holdout=SampleSize(20))
    with pytest.raises(SegalError, match=r"(?s)region \d of 6: .*smaller strategy\.lr"):
        measured(signal, deeplab, data, "24")


@pytest.mark.parametrize("holdout", [EVERY_PIXEL, SampleSize(20), SampleSize(None, 3)])
def test_a_reference_set_without_a_labelled_pixel_is_refused(deeplab, data, holdout):
    val = data[0]
    void = {i: [(0, 0, *reversed(val.pool.size(i)))] for i in range(len(val))}
    bench = make_bench(deeplab, data)
    sets = {"val": ImageSet(val.pool, val, outside=void)}
    with pytest.raises(SegalError, match="not one pixel"):
        HoldoutErrorChange(holdout=holdout).prepare(dataclasses.replace(bench, sets=sets))


def test_too_little_memory_names_the_remedy(deeplab, data, monkeypatch):
    monkeypatch.setattr(region_updates, "free_bytes", lambda _: 1000)
    with pytest.raises(SegalError, match=r"(?s)one region.*smaller --region"):
        measured(HoldoutErrorChange(holdout=SampleSize(20)), deeplab, data, "24")
    monkeypatch.setattr(pixel_sample, "free_bytes", lambda _: 1000)
    for holdout in (EVERY_PIXEL, SampleSize(20)):
        with pytest.raises(
            SegalError, match=r"(?s)too little memory.*strategy\.holdout_pixels=1000"
        ):
            measured(HoldoutErrorChange(holdout=holdout), deeplab, data, "24")
