"""MC-dropout and BALD against brute force, and what must not change them."""

import copy

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy

from segal.candidates.regions import RegionSize
from segal.candidates.table import CandidateTable
from segal.data.pool import open_pool
from segal.errors import SegalError
from segal.functional.divergence import DisagreementSum
from segal.functional.uncertainty import entropy
from segal.models.build import build_model, make_spec
from segal.models.dropout import dropout_passes
from segal.scanning.scan import LABELLED_FOLDER, Scan, ScanSettings
from segal.signals import Value
from segal.signals.dropout import DropoutValue, drawn
from segal.tasks.segmentation.model import SegmentationModel
from segal.tasks.segmentation.task import Segmentation
from tests.conftest import CLASSES

SAMPLES = 4
SIGNALS = (
    DropoutValue("mc_dropout", SAMPLES),
    DropoutValue("bald", SAMPLES),
    DropoutValue("bald", SAMPLES, "max"),
    DropoutValue("mc_dropout", SAMPLES, "sum"),
    Value("entropy"),
)
REGIONS = ("32", "16x24", "image")


def logits_of_passes(count, shape=(5, 7, 9), dtype=torch.float64, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(count, *shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def summed(passes):
    total = DisagreementSum()
    for logits in passes:
        total.add(logits)
    return total.entropies()


@pytest.mark.parametrize("shape", [(5, 7, 9), (2,), (3, 200, 300)])
def test_sums_equal_the_definition(shape):
    passes = logits_of_passes(6, shape)
    p = torch.softmax(passes, 1).numpy()
    of_mean = scipy_entropy(p.mean(0), axis=0)
    ours, bald = summed(passes)
    np.testing.assert_allclose(ours, of_mean, rtol=1e-12)
    np.testing.assert_allclose(bald, of_mean - scipy_entropy(p, axis=1).mean(0), atol=1e-13)


def test_bald_of_two_passes_is_the_jensen_shannon_divergence():
    passes = logits_of_passes(2)
    p = torch.softmax(passes, 1).numpy()
    np.testing.assert_allclose(summed(passes)[1], jensenshannon(p[0], p[1], axis=0) ** 2, 1e-12)


def test_passes_that_are_all_alike_give_the_entropy_and_no_disagreement():
    logits = logits_of_passes(1)[0]
    of_mean, bald = summed([logits] * 5)
    torch.testing.assert_close(of_mean, entropy(logits[None])[0], rtol=1e-12, atol=1e-14)
    assert bald.abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bald_is_never_negative_nor_above_the_entropy(dtype):
    for scale in (0.01, 1.0, 30.0, 1000.0):
        passes = logits_of_passes(3, dtype=dtype, scale=scale)
        passes[:, 0] = -torch.inf
        of_mean, bald = summed(passes)
        assert of_mean.dtype == torch.float32
        assert (bald >= 0).all()
        assert (bald <= of_mean + 1e-6).all()
        assert (of_mean <= np.log(4) + 1e-6).all()


def test_sums_refuse_what_does_not_fit():
    total = DisagreementSum()
    with pytest.raises(ValueError, match="at least one pass"):
        total.entropies()
    total.add(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"expected \(3, 4\)"):
        total.add(torch.zeros(3, 5))


@pytest.fixture(scope="module")
def spread(model):
    """The shared network with larger logits: it is sure of some pixels and passes disagree."""
    larger = copy.deepcopy(model)
    with torch.no_grad():
        larger.head.weight.mul_(30.0)
        images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        larger.head.bias.sub_(larger(images).logits.mean((0, 2, 3)))
    return larger


def run(pool, model, folder, signals=SIGNALS, seed=7, labelled=None, **settings):
    Scan(
        pool=pool,
        task=Segmentation(),
        regions=[RegionSize.parse(r) for r in REGIONS],
        settings=ScanSettings(device=torch.device("cpu"), **settings),
        signals=signals,
        model=model,
        labelled=labelled or {},
        seed=seed,
    ).run(folder)
    return {name: CandidateTable.open(folder / name) for name in (*REGIONS, LABELLED_FOLDER)}


def dropout_columns(table):
    return {name: values for name, values in table.values.items() if name != "entropy"}


def test_a_scan_equals_brute_force_over_dense_maps(image_folder, spread, tmp_path):
    pool = open_pool(image_folder).subset([0, 2])
    tables = run(pool, spread, tmp_path / "candidates", batch_size=2)
    for i, path in enumerate(pool.paths):
        image = spread.normalise(torch.from_numpy(pool.read(i).copy())[None])
        with dropout_passes(spread) as forward:
            p = [
                forward(image, drawn(7, path, number))[0].double().softmax(0).numpy()
                for number in range(SAMPLES)
            ]
        of_mean = scipy_entropy(np.mean(p, 0), axis=0)
        bald = of_mean - np.mean([scipy_entropy(each, axis=0) for each in p], 0)
        for region in REGIONS:
            table = tables[region]
            for row in np.flatnonzero(table.image == i):
                x0, y0, x1, y1 = table.box[row]
                here = (slice(y0, y1), slice(x0, x1))
                for column, expected in {
                    f"mc_dropout-{SAMPLES}": of_mean[here].mean(),
                    f"mc_dropout-{SAMPLES}-sum": of_mean[here].sum(),
                    f"bald-{SAMPLES}": bald[here].mean(),
                    f"bald-{SAMPLES}-max": bald[here].max(),
                }.items():
                    value = table.values[column][row]
                    assert value == pytest.approx(expected, rel=1e-4, abs=5e-7), column
                assert table.values[f"bald-{SAMPLES}"][row] > 1e-4


@pytest.mark.parametrize(
    "settings", [{"batch_size": 2}, {"batch_size": 3, "workers": 0}, {"workers": 3}]
)
def test_batches_and_workers_do_not_change_a_byte(image_folder, spread, tmp_path, settings):
    pool = open_pool(image_folder)
    first = run(pool, spread, tmp_path / "a")
    other = run(pool, spread, tmp_path / "b", **settings)
    for region in REGIONS:
        for name, values in dropout_columns(first[region]).items():
            assert values.tobytes() == other[region].values[name].tobytes()


def test_other_images_and_signals_do_not_change_a_byte_and_the_seed_does(
    image_folder, spread, tmp_path
):
    pool = open_pool(image_folder)
    whole = run(pool, spread, tmp_path / "a", batch_size=2)["32"]
    some = run(pool.subset([3, 5]), spread, tmp_path / "b", SIGNALS[1:2])["32"]
    other = run(pool.subset([3, 5]), spread, tmp_path / "c", SIGNALS[1:2], seed=8)["32"]
    column = SIGNALS[1].column
    rows = np.isin(whole.image, [3, 5])
    assert np.array_equal(whole.values[column][rows], some.values[column])
    assert not np.isclose(other.values[column], some.values[column], rtol=1e-3).all()


def test_both_scores_and_all_sizes_share_the_passes(image_folder, spread, tmp_path, monkeypatch):
    pool = open_pool(image_folder).subset([0, 1])
    ran = []
    forward = SegmentationModel.forward

    def counting(self, *args):
        ran.append(args[0].shape)
        return forward(self, *args)

    monkeypatch.setattr(SegmentationModel, "forward", counting)
    run(pool, spread, tmp_path / "candidates")
    # Of each image a pass for the scan, and those with dropout.
    assert len(ran) == 2 * (1 + SAMPLES)


def test_labelled_regions_are_not_measured(image_folder, spread, tmp_path):
    pool = open_pool(image_folder).subset([0])
    tables = run(pool, spread, tmp_path / "c", labelled={0: [(0, 0, 32, 32)]})
    assert set(tables[LABELLED_FOLDER].values) == {"entropy"}


def test_mixed_precision_stays_close(image_folder, spread, tmp_path):
    pool = open_pool(image_folder).subset([0])
    exact = run(pool, spread, tmp_path / "a")["32"]
    half = run(pool, spread, tmp_path / "b", precision="bf16")["32"]
    for name in (f"mc_dropout-{SAMPLES}", f"bald-{SAMPLES}"):
        np.testing.assert_allclose(half.values[name], exact.values[name], rtol=0.15)
        assert not np.allclose(half.values[name], exact.values[name], rtol=1e-6)


def test_a_network_without_dropout_is_refused_before_the_pass(image_folder, tmp_path):
    pool = open_pool(image_folder)
    plain = build_model(make_spec("Unet", "resnet18", CLASSES)).eval()
    with pytest.raises(SegalError, match="no dropout on the way to its logits"):
        run(pool, plain, tmp_path / "candidates")
    assert list(tmp_path.glob("*candidates*")) == []


def test_columns_tell_measurements_apart():
    names = [
        DropoutValue(name, samples, reduction).column
        for name in ("mc_dropout", "bald")
        for samples in (5, 10)
        for reduction in ("mean", "sum", "max")
    ]
    assert len(set(names)) == len(names)
    assert DropoutValue("bald").column == "bald-10"
