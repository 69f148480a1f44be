"""Signals of gradients: their columns, what they need, and how they fail."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from segal.candidates.evidence import Evidence
from segal.candidates.regions import RegionSize
from segal.candidates.table import CandidateTable, StoredRows, TableWriter
from segal.data.pool import open_pool
from segal.errors import SegalError
from segal.functional.gradients import entropy_residual
from segal.functional.kmeans_plusplus import k_means_plusplus
from segal.functional.tiles import TILE, tile_boxes, windows
from segal.models.spec import ModelSpec
from segal.scanning.scan import LABELLED_FOLDER, Scan, ScanSettings
from segal.scanning.workbench import Bench
from segal.signals import (
    Directional,
    GradientNorm,
    KeptMass,
    Need,
    Pseudo,
    RegionGradient,
    TopK,
    Truncated,
)
from segal.signals import gradients as gradient_signals
from segal.signals.gradients import GradientMeter
from segal.tasks.segmentation.model import SegmentationModel
from segal.tasks.segmentation.task import Segmentation


class Counted:
    """A direction of ones that counts how often it is computed."""

    def __init__(self, layers="last", name="ones"):
        self.layers, self.name, self.computed = layers, name, 0
        self.needs = frozenset({Need("val", True)})

    def vector(self, bench):
        self.computed += 1
        parameters = bench.model.tail(self.layers).parameters
        return {n: torch.ones_like(p, dtype=torch.float64) for n, p in parameters.items()}


def bench_of(model):
    return Bench(model, Segmentation(), ScanSettings(torch.device("cpu")))


def test_columns_tell_apart_what_is_measured_otherwise_and_are_good_file_names():
    direction = Counted()
    signals = [
        RegionGradient(),
        RegionGradient(bias=True),
        RegionGradient("last_two"),
        RegionGradient(labels=TopK(2)),
        GradientNorm(),
        GradientNorm("last_two"),
        KeptMass(Truncated(0.4)),
        KeptMass(Truncated(0.4, "paper")),
        Directional(direction),
        Directional(direction, reduction="sum"),
        Directional(direction, TopK(3)),
        Directional(Counted(name="other")),
    ]
    columns = [signal.column for signal in signals]
    assert len(set(columns)) == len(signals)
    assert all(re.fullmatch(r"[\w.\-]{1,120}", column) for column in columns)
    assert len({hash(signal) for signal in signals}) == len(signals)


def test_needs_are_those_of_the_direction():
    assert Directional(Counted()).needs == {Need("val", True)}
    assert RegionGradient().needs == GradientNorm().needs == KeptMass(TopK(2)).needs == frozenset()
    assert not Directional(Counted()).of_labelled


def test_a_direction_is_computed_once_for_all_its_signals(model):
    bench, direction = bench_of(model), Counted()
    for rule in (Pseudo(), TopK(2)):
        for reduction in ("mean", "sum"):
            Directional(direction, rule, reduction).prepare(bench)
    assert direction.computed == 1


def test_layers_without_a_closed_form_are_said_once(model):
    bench = bench_of(model)
    for signal in (RegionGradient("decoder.block2"), GradientNorm("decoder.block2")):
        signal.prepare(bench)
    for name in ("one", "two"):
        Directional(Counted("decoder.block2", name)).prepare(bench)
    assert len(bench.notes) == 1
    assert "no closed form" in bench.notes[0]
    for signal in (RegionGradient(), GradientNorm("last_two"), Directional(Counted("last_two"))):
        signal.prepare(bench)
    assert len(bench.notes) == 1
    with pytest.raises(SegalError, match="no_such"):
        RegionGradient("no_such").prepare(bench)


@pytest.mark.parametrize("head", [{"groups": 2}, {"padding": 1, "padding_mode": "reflect"}])
def test_heads_without_a_closed_form_are_differentiated(head):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1 + 2 * ("padding" in head), **head),
    )
    spec = ModelSpec("odd", "", tuple("abcd"), (0.5,) * 3, (0.2,) * 3, stride=1)
    model = SegmentationModel(network.eval(), spec).double()
    x = torch.randn(1, 3, 9, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    units = RegionSize.parse("5").grid(9, 13)
    signals = (RegionGradient(bias=True), RegionGradient(), Directional(Counted()))
    bench = bench_of(model)
    meters = [signal.prepare(bench) for signal in signals]
    assert "no closed form" in bench.notes[0]
    with torch.no_grad():
        evidence = model(x, meters[0].catch)
        whole, weights, along = (meter.measure(evidence, units) for meter in meters)
    parameters = list(model.tail("last").parameters.values())
    log = model(x).logits.log_softmax(1)
    losses = -log.amax(1)[0]
    for region, (x0, y0, x1, y1) in enumerate(units.boxes().tolist()):
        mean = losses[y0:y1, x0:x1].mean()
        gradients = torch.autograd.grad(mean, parameters, retain_graph=True)
        expected = torch.cat([g.flatten() for g in gradients])
        torch.testing.assert_close(whole[0, region], expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(along[0, region], expected.sum(), rtol=1e-9, atol=1e-12)
    assert torch.equal(weights, whole[..., :-4])


def test_norms_hold_a_part_of_the_gradients_at_a_time(model, monkeypatch):
    units, held = RegionSize.parse("24").grid(64, 80), []
    meter = GradientNorm().prepare(bench_of(model))
    images = torch.randn(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = meter.measure(model(images, meter.catch), units)
        monkeypatch.setattr(gradient_signals, "_HELD", 5 * meter.gradient.gradients.width)
        measure = GradientMeter.measure

        def watched(self, evidence, part):
            held.append(len(part))
            return measure(self, evidence, part)

        monkeypatch.setattr(GradientMeter, "measure", watched)
        got = meter.measure(model(images, meter.catch), units)
    assert held == [5, 5, 2]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=0)


def test_half_precision_of_the_network_is_taken_up_in_float32(model):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, 64, 96, generator=generator)
    units = RegionSize.parse("32").grid(64, 96)
    bench = bench_of(model)
    meters = [
        signal.prepare(bench)
        for signal in (RegionGradient(), GradientNorm("last_two"), Directional(Counted("last_two")))
    ]
    with torch.no_grad():
        exact = model(images, ("last_two",))
        half = Evidence(
            logits=exact.logits.bfloat16(),
            features=exact.features.bfloat16(),
            upsampling=exact.upsampling,
            tail_input={"last_two": exact.tail_input["last_two"].bfloat16()},
        )
        for meter in meters:
            reference, ours = meter.measure(exact, units), meter.measure(half, units)
            assert ours.dtype == torch.float64
            assert (ours - reference).abs().max() < 0.05 * reference.abs().max()


def test_the_scan_writes_them_and_names_what_is_not_finite(image_folder, model, tmp_path):
    pool = open_pool(image_folder).subset([0, 1, 5])
    signals = (RegionGradient(), GradientNorm(), Directional(Counted()))

    def scan(vector):
        return Scan(
            pool=pool,
            task=Segmentation(),
            regions=[RegionSize.parse("32"), RegionSize.parse("64")],
            settings=ScanSettings(torch.device("cpu"), batch_size=2),
            signals=(*signals, Directional(vector)),
            model=model,
            labelled={1: [(0, 0, 32, 32), (3, 4, 20, 9)]},
        )

    class Broken(Counted):
        def vector(self, bench):
            parts = super().vector(bench)
            parts["weight"][0, 0] = torch.nan
            return parts

    scan(Counted(name="other")).run(tmp_path / "good")
    table = CandidateTable.open(tmp_path / "good" / "32")
    labelled = CandidateTable.open(tmp_path / "good" / LABELLED_FOLDER)
    gradients = table.embedding("gradient-last-pseudo")
    assert gradients.shape == (len(table), 5 * 256)
    same = np.flatnonzero((table.image == 1) & (table.box == (0, 0, 32, 32)).all(1))
    np.testing.assert_allclose(
        labelled.embedding("gradient-last-pseudo")[0], gradients[same[0]], rtol=1e-4, atol=1e-7
    )
    assert set(labelled.values) == set()
    # The norm of the sum of all parts is at most the mean of the parts' norms.
    norms = table.values["gradient_norm-last"]
    coarse = CandidateTable.open(tmp_path / "good" / "64").values["gradient_norm-last"]
    assert coarse.max() <= norms.max()
    with pytest.raises(SegalError, match=r"frame 0\.png, region 1 of 12: directional-broken"):
        scan(Broken(name="broken")).run(tmp_path / "bad")


def test_tiles_partition_their_boxes_and_are_shared_by_sizes_that_nest():
    for height, width, size in [(130, 1000, "128"), (70, 101, "image"), (64, 64, "3x100")]:
        boxes = RegionSize.parse(size).grid(height, width).boxes()
        tiling = tile_boxes(boxes)
        covered = np.zeros((height, width), int)
        for x0, y0, x1, y1 in tiling.tiles:
            covered[y0:y1, x0:x1] += 1
            assert x1 - x0 <= TILE
            assert y1 - y0 <= TILE
        assert (covered == 1).all()
        areas = torch.from_numpy((tiling.tiles[:, 2:] - tiling.tiles[:, :2]).prod(1)[None])
        assert torch.equal(tiling.sum(areas)[0], tiling.pixels)
    nested = [RegionSize.parse(s).grid(1024, 2048).boxes() for s in ("512", "256", "128", "64")]
    assert len({tile_boxes(boxes).key for boxes in nested}) == 1
    assert tile_boxes(np.zeros((0, 4), np.int32)).count == 0


def test_bad_boxes_are_refused():
    with pytest.raises(ValueError, match="x0 < x1"):
        tile_boxes(np.array([[0, 0, 5, 0]]))
    with pytest.raises(ValueError, match="within"):
        windows(tile_boxes(np.array([[0, 0, 5, 9]])), (4, 4), (8, 8), True)


def test_entropy_residual_is_zero_where_a_class_is_certain():
    p = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]]).T[:, :, None]
    residual = entropy_residual(p)
    assert torch.equal(residual[:, 0], torch.zeros(3, 1))
    assert torch.isfinite(residual).all()
    assert residual.sum(0).abs().max() < 1e-7


def test_selection_reads_the_rows_of_a_view_from_disk(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 20)).astype(np.float32)
    boxes = np.tile(np.array([[0, 0, 4, 4]], np.int32), (300, 1))
    with TableWriter(tmp_path / "table", ["a.png"], 300) as writer:
        writer.append([0], boxes, {"g": rows[None]})
    table = CandidateTable.open(tmp_path / "table")
    ids = np.arange(5, 300, 3)
    view = table.view(ids, np.ones(len(ids), np.int64))
    stored = view.stored("g")
    assert isinstance(stored, StoredRows)
    assert stored.shape == (len(ids), 20)
    assert isinstance(stored.column, np.memmap)
    np.testing.assert_array_equal(stored[np.array([7, 2])], rows[ids[[7, 2]]])
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    picks = [
        k_means_plusplus(x, 30, g)
        for x, g in zip((stored, torch.from_numpy(rows[ids])), generators, strict=True)
    ]
    assert torch.equal(*picks)
