"""The scan against brute force, and what must not change its result."""

import copy
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segal.candidates.regions import RegionSize
from segal.candidates.table import CandidateTable
from segal.data.pool import open_pool
from segal.errors import SegalError
from segal.scanning.scan import LABELLED_FOLDER, Scan, ScanSettings
from segal.signals import MeanFeature, Value
from segal.signals.base import PlainSignal
from segal.strategies.coreset import CoreSet
from segal.tasks.segmentation.task import Segmentation

SIGNALS = (Value("entropy"), Value("bvsb", "max"), Value("margin", "sum"), MeanFeature())
REGIONS = ("32", "16x24", "image")


def run(pool, model, folder, labelled=None, signals=SIGNALS, **settings):
    scan = Scan(
        pool=pool,
        task=Segmentation(),
        regions=[RegionSize.parse(r) for r in REGIONS],
        settings=ScanSettings(device=torch.device("cpu"), **settings),
        signals=signals,
        model=model,
        labelled=labelled or {},
    )
    scan.run(folder)
    return {name: CandidateTable.open(folder / name) for name in (*REGIONS, LABELLED_FOLDER)}


def dense(model, image):
    """Dense maps of one image in float64, all the long way round."""
    wide = copy.deepcopy(model).double()
    height, width = image.shape[:2]
    padded = F.pad(
        (torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255.0).double(),
        (0, -width % 16, 0, -height % 16),
        mode="replicate",
    )
    mean = torch.tensor(model.spec.mean, dtype=torch.float64)[:, None, None]
    std = torch.tensor(model.spec.std, dtype=torch.float64)[:, None, None]
    network = wide.network
    with torch.no_grad():
        features = network.decoder(network.encoder((padded - mean) / std))
        low = network.segmentation_head[0](features)
        size = padded.shape[-2:]
        logits = F.interpolate(low, size, mode="bilinear", align_corners=True)
        features = F.interpolate(features, size, mode="bilinear", align_corners=True)
    p = torch.softmax(logits[0, :, :height, :width], 0)
    top = p.sort(0, descending=True).values
    return {
        "entropy": -(p * p.log()).sum(0).numpy(),
        "bvsb-max": (top[1] / top[0]).numpy(),
        "margin-sum": (1 - (top[0] - top[1])).numpy(),
        "mean_feature": features[0, :, :height, :width].numpy(),
    }


def test_equals_brute_force_over_dense_float64_maps(image_folder, model, tmp_path):
    pool = open_pool(image_folder)
    tables = run(pool, model, tmp_path / "candidates")
    maps = [dense(model, pool.read(i)) for i in range(len(pool))]
    reduce = {"entropy": np.mean, "bvsb-max": np.max, "margin-sum": np.sum}
    for region in REGIONS:
        table = tables[region]
        for row in range(len(table)):
            x0, y0, x1, y1 = table.box[row]
            here = maps[table.image[row]]
            for name, reduction in reduce.items():
                expected = reduction(here[name][y0:y1, x0:x1])
                assert table.values[name][row] == pytest.approx(expected, rel=1e-4)
            feature = here["mean_feature"][:, y0:y1, x0:x1].mean((1, 2))
            np.testing.assert_allclose(
                table.embeddings["mean_feature"][row], feature, rtol=1e-3, atol=1e-4
            )


def test_candidates_are_in_order_and_cover_every_image_once(image_folder, model, tmp_path):
    pool = open_pool(image_folder)
    table = run(pool, model, tmp_path / "candidates")["32"]
    assert list(table.images) == sorted(table.images, key=str.encode)
    keys = [(table.image[i], table.box[i][1], table.box[i][0]) for i in range(len(table))]
    assert keys == sorted(keys)
    for i in range(len(pool)):
        assert table.pixels[table.image == i].sum() == np.prod(pool.size(i))


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 3}, {"workers": 0}, {"workers": 3, "batch_size": 2}],
)
def test_batches_and_workers_do_not_change_it(image_folder, model, tmp_path, settings):
    pool = open_pool(image_folder)
    first = run(pool, model, tmp_path / "a")
    other = run(pool, model, tmp_path / "b", **settings)
    for region in REGIONS:
        assert np.array_equal(first[region].box, other[region].box)
        for name, values in first[region].values.items():
            np.testing.assert_allclose(other[region].values[name], values, rtol=1e-5)
        embedding = first[region].embedding("mean_feature")
        scale = np.abs(embedding).max()
        difference = np.abs(embedding - other[region].embedding("mean_feature"))
        assert difference.max() <= 1e-5 * scale


def test_the_order_of_files_on_disk_does_not_change_a_byte(image_folder, model, tmp_path):
    pool = open_pool(image_folder)
    run(pool, model, tmp_path / "a")
    moved = tmp_path / "moved"
    for path in reversed(pool.paths):
        (moved / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image_folder / path, moved / path)
    run(open_pool(moved), model, tmp_path / "b")
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(files) > 10
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_labelled_boxes_are_measured_as_they_are(image_folder, model, tmp_path):
    pool = open_pool(image_folder)
    labelled = {1: [(3, 5, 40, 33), (32, 0, 64, 32)], 4: [(0, 0, 80, 50)]}
    tables = run(pool, model, tmp_path / "candidates", labelled=labelled, batch_size=2)
    measured = tables[LABELLED_FOLDER]
    assert measured.image.tolist() == [1, 1, 4]
    assert measured.box.tolist() == [list(b) for boxes in labelled.values() for b in boxes]
    maps = dense(model, pool.read(1))
    assert measured.values["entropy"][0] == pytest.approx(
        maps["entropy"][5:33, 3:40].mean(), rel=1e-4
    )
    same = np.flatnonzero((tables["32"].image == 1) & (tables["32"].box == (32, 0, 64, 32)).all(1))
    np.testing.assert_allclose(
        measured.embedding("mean_feature")[1],
        tables["32"].embedding("mean_feature")[same[0]],
        rtol=1e-5,
        atol=1e-6,
    )


def test_of_what_is_labelled_only_its_own_images_are_measured(image_folder, model, tmp_path):
    looked_at = []

    class Counting(PlainSignal):
        column = "counting"

        def measure(self, evidence, units):
            again = evidence.once(("maximum",), lambda: evidence.logits.amax(1))
            assert torch.equal(again, evidence.logits.amax(1))
            looked_at.append((len(evidence.images), len(again), len(units)))
            return torch.zeros(len(again), len(units))

    pool = open_pool(image_folder).subset([0, 1, 2])
    labelled = {1: [(0, 0, 8, 8)], 2: [(0, 0, 8, 8), (8, 0, 9, 9)]}
    run(pool, model, tmp_path / "candidates", labelled, (Counting(),), batch_size=3)
    assert looked_at[-2:] == [(1, 1, 1), (1, 1, 2)]


def test_without_signals_only_geometry_is_written_and_nothing_is_read(
    image_folder, tmp_path, monkeypatch
):
    pool = open_pool(image_folder)
    monkeypatch.setattr(type(pool), "read", lambda *_: pytest.fail("an image was read"))
    table = run(pool, None, tmp_path / "candidates", signals=())["16x24"]
    assert table.values == {}
    assert table.pixels.sum() == sum(np.prod(pool.size(i)) for i in range(len(pool)))


def test_half_precision_embeddings_are_stored_as_asked(image_folder, model, tmp_path):
    pool = open_pool(image_folder).subset([0])
    table = run(pool, model, tmp_path / "candidates", embedding_dtype="float16")["32"]
    assert table.embeddings["mean_feature"].dtype == np.float16
    assert table.embedding("mean_feature").dtype == np.float32


def test_float16_is_what_is_rounded_to_it_and_picks_are_those_of_its_values(
    image_folder, model, tmp_path
):
    pool = open_pool(image_folder)
    exact = run(pool, model, tmp_path / "a")["16x24"]
    half = run(pool, model, tmp_path / "b", embedding_dtype="float16")["16x24"]
    stored = half.embeddings["mean_feature"]
    # Half a step of float16, of normal numbers and of those below.
    np.testing.assert_allclose(
        stored, exact.embeddings["mean_feature"], rtol=1.001 * 2**-11, atol=1.001 * 2**-25
    )
    picks = CoreSet().select(half, half.view([], []), 20, torch.Generator())
    x = stored.astype(np.float64)
    nearest = ((x - x.mean(0)) ** 2).sum(1)
    chosen = []
    for _ in range(20):
        chosen.append(int(nearest.argmax()))
        gap = ((x - x[chosen[-1]]) ** 2).sum(1)
        nearest = np.minimum(nearest, gap) if len(chosen) > 1 else gap
    assert picks.rows.tolist() == chosen


def test_bfloat16_is_the_networks_and_not_the_scores(image_folder, model, tmp_path):
    pool = open_pool(image_folder).subset([0, 1])
    table = run(pool, model, tmp_path / "a", precision="bf16")["32"]
    found = []
    for index in range(len(pool)):
        image = torch.from_numpy(pool.read(index))[None]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            logits = model(model.normalise(image)).logits
        p = logits[0].double().softmax(0)
        entropy = -(p * p.log()).sum(0)
        for x0, y0, x1, y1 in table.box[table.image == index]:
            found.append(float(entropy[y0:y1, x0:x1].mean()))
    np.testing.assert_allclose(table.values["entropy"], found, rtol=1e-5)


def test_what_is_not_finite_names_the_image_and_leaves_no_table(image_folder, model, tmp_path):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.head.bias[0] = torch.nan
    pool = open_pool(image_folder)
    with pytest.raises(SegalError, match=r"a/frame 0\.png, region 1 of 12: entropy is not finite"):
        run(pool, broken, tmp_path / "candidates")
    assert not (tmp_path / "candidates").exists()


def test_mixed_precision_stays_close(image_folder, model, tmp_path):
    pool = open_pool(image_folder).subset([0, 1])
    exact = run(pool, model, tmp_path / "a")["32"]
    half = run(pool, model, tmp_path / "b", precision="bf16")["32"]
    np.testing.assert_allclose(half.values["entropy"], exact.values["entropy"], rtol=0.05)
    features = exact.embedding("mean_feature")
    difference = np.abs(half.embedding("mean_feature") - features)
    assert difference.max() < 0.03 * np.abs(features).max()
    assert difference.max() > 0  # it was half precision indeed
