"""What is never annotated: how it is read, and that regions are measured without it."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segal.candidates.evidence import Upsampling
from segal.candidates.regions import Boxes, RegionSize, Rest
from segal.data.datasets import open_dataset
from segal.data.exclusion import (
    Exclusion,
    RestOfDataset,
    _read_mask,
    excluded_pixels,
    together,
    uncovered,
)
from segal.data.images import ImageInfo
from segal.data.pool import ImagePool, open_pool
from segal.errors import SegalError
from segal.functional.coverage import mask_boxes
from segal.functional.divergence import class_profile
from segal.jobs.reference import run_sets
from segal.models.spec import ModelSpec
from segal.runs.oracle import Oracle
from segal.scanning.scan import ScanSettings
from segal.scanning.workbench import Bench
from segal.signals import (
    Directional,
    GradientNorm,
    KeptMass,
    Pooled,
    RegionGradient,
    Truncated,
    Value,
)
from segal.signals.class_profiles import ClassProfiles
from segal.tasks.drawing import Drawn
from segal.tasks.segmentation.drawing import _load
from segal.tasks.segmentation.model import SegmentationModel
from segal.tasks.segmentation.task import Segmentation

HEIGHT, WIDTH = 12, 20
SIZE = 32, 40  # of images as files


def pool_of(*paths, size=(HEIGHT, WIDTH)):
    infos = tuple(ImageInfo(*size, path) for path in paths)
    return ImagePool(Path("images"), paths, infos, ((1, 1),) * len(paths))


def painted(boxes, size=(HEIGHT, WIDTH)):
    """How often each pixel is in a box."""
    count = np.zeros(size, int)
    for x0, y0, x1, y1 in boxes:
        count[y0:y1, x0:x1] += 1
    return count


def a_mask(seed=0, size=(HEIGHT, WIDTH)):
    """A bonnet, a time stamp and some dirt."""
    mask = np.random.default_rng(seed).random(size) < 0.05
    for x in range(size[1]):
        mask[size[0] - 1 - (x * (size[1] - x)) // 60 :, x] = True
    mask[:2, :6] = True
    return mask


@pytest.mark.parametrize("seed", range(4))
def test_boxes_of_a_mask_cover_it_once(seed):
    mask = a_mask(seed)
    assert np.array_equal(painted(mask_boxes(mask)), mask)
    assert mask_boxes(np.zeros((3, 0), bool)) == mask_boxes(np.zeros((3, 2), bool)) == []
    assert mask_boxes(np.ones((3, 2), bool)) == [(0, 0, 2, 3)]


def test_one_mask_is_of_all_images(tmp_path):
    mask = a_mask()
    cv2.imwrite(str(tmp_path / "bonnet.png"), mask * np.uint8(7))
    given = Exclusion.open(tmp_path / "bonnet.png")
    pools = pool_of("a.png", "b/c.jpg"), pool_of("d.png")
    first, second = given.of(pools)
    assert list(first) == ["a.png", "b/c.jpg"] and list(second) == ["d.png"]
    for boxes in (*first.values(), *second.values()):
        assert np.array_equal(painted(boxes), mask)
    assert excluded_pixels(first["a.png"]) == mask.sum()
    cv2.imwrite(str(tmp_path / "bonnet.png"), ~mask * np.uint8(1))  # in a session that goes on
    assert np.array_equal(painted(given.of(pools)[1]["d.png"]), ~mask)
    digest = given.digest()
    (tmp_path / "bonnet.png").rename(tmp_path / "other.png")
    assert Exclusion.open(tmp_path / "other.png").digest() == digest


def test_a_folder_has_masks_by_image(tmp_path):
    for name, seed in (("a", 1), ("b/c", 2)):
        file = tmp_path / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file), a_mask(seed) * np.uint8(255))
    (found,) = Exclusion.open(tmp_path).of([pool_of("a.png", "b/c.jpg", "d.png")])
    assert list(found) == ["a.png", "b/c.jpg"]
    assert np.array_equal(painted(found["b/c.jpg"]), a_mask(2))
    before = Exclusion.open(tmp_path).digest()
    (tmp_path / "a.png").rename(tmp_path / "d.png")
    assert Exclusion.open(tmp_path).digest() != before


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_table_has_boxes_of_one_image_or_of_all(tmp_path, separator):
    rows = ["Image,X,Y,Width,Height", ",0,10,20,50", "b.png,3,9.0,4,2", "b.png,5,1,2,2"]
    (tmp_path / "t.csv").write_text("\n".join(rows).replace(",", separator))
    (found,) = Exclusion.open(tmp_path / "t.csv").of([pool_of("a.png", "b.png")])
    assert found["a.png"] == ((0, 10, 20, 12),)  # clipped
    expected = painted([(0, 10, 20, 12), (3, 9, 7, 11), (5, 1, 7, 3)]) > 0
    assert np.array_equal(painted(found["b.png"]), expected)  # overlaps once


@pytest.mark.parametrize(
    ("files", "name", "match"),
    [
        ({}, "none.png", "nothing there"),
        ({"m.bmp": np.ones((2, 2))}, "m.bmp", r"ends with '\.bmp'"),
        ({"m.png": np.ones((12, 21))}, "m.png", r"not of the size of a\.png[\s\S]*21 x 12"),
        (
            {"m.png": np.ones((12, 20))},
            "m.png",
            r"leaves nothing of 2 images of [\s\S]*as a whole: a\.png, b\.png",
        ),
        ({"d/z.png": np.ones((12, 20))}, "d", r"names what is no image[\s\S]*z\.png"),
        ({"d/x.txt": ""}, "d", "a folder without a PNG"),
        ({"t.csv": "image,x,y,width,height\nz.png,1,1,1,1"}, "t.csv", r"no image[\s\S]*z\.png"),
        ({"t.csv": "image,x,y,width\n,1,1,1"}, "t.csv", "none of the name height"),
        ({"t.csv": "image,x,y,width,height\n,1,1,0,1"}, "t.csv", "line 2[\\s\\S]*at least 1"),
        ({"t.csv": "image,x,y,width,height\n,1,one,2,1"}, "t.csv", "line 2[\\s\\S]*whole numbers"),
        ({"t.csv": "image,x,y,width,height\n,20,1,2,1"}, "t.csv", "line 2: outside of a"),
        ({"t.csv": ""}, "t.csv", "columns image, x, y"),
    ],
)
def test_what_cannot_be_excluded_is_refused(tmp_path, files, name, match):
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        if isinstance(content, str):
            (tmp_path / path).write_text(content)
        else:
            cv2.imwrite(str(tmp_path / path), content.astype(np.uint8))
    with pytest.raises(SegalError, match=match):
        Exclusion.open(tmp_path / name).of([pool_of("a.png", "b.png")])


def test_images_that_are_not_opened_may_be_named(tmp_path):
    (tmp_path / "t.csv").write_text("image,x,y,width,height\nz.png,1,1,1,1")
    given = Exclusion.open(tmp_path / "t.csv")
    assert given.of([pool_of("a.png")], all_there=False) == [{}]
    assert given.of([replace(pool_of("a.png"), skipped=("images/z.png: damaged",))]) == [{}]


def test_a_mask_of_too_many_boxes_is_refused(tmp_path, monkeypatch):
    speckle = np.indices((20, 30)).sum(0) % 2
    cv2.imwrite(str(tmp_path / "m.png"), speckle.astype(np.uint8))
    given = Exclusion.open(tmp_path / "m.png")
    pool = replace(pool_of("a.png"), infos=(ImageInfo(20, 30, "0"),))
    assert len(given.of([pool])[0]["a.png"]) == 300
    monkeypatch.setattr("segal.data.exclusion._MAX_BOXES", 299)
    _read_mask.cache_clear()
    with pytest.raises(SegalError, match="too ragged"):
        given.of([pool])


def test_boxes_of_which_something_is_left():
    excluded = [(0, 0, 4, 4), (4, 0, 8, 2)]
    assert uncovered([(0, 0, 4, 4), (2, 0, 6, 2), (2, 0, 6, 3), (9, 9, 10, 10)], excluded) == [
        (2, 0, 6, 3), (9, 9, 10, 10)
    ]  # fmt: skip
    assert together({"a": [(0, 0, 1, 1)]}, {"b": ((1, 1, 2, 2),), "a": ((2, 2, 3, 3),)}) == {
        "a": [(0, 0, 1, 1), (2, 2, 3, 3)], "b": [(1, 1, 2, 2)]
    }  # fmt: skip


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("spread", [False, True])
def test_what_is_left_is_pooled_as_pixel_by_pixel(spread, align_corners):
    """Against loops over the upsampled map in float64."""
    generator = torch.Generator().manual_seed(3)
    size = (3, 5) if spread else (HEIGHT, WIDTH)
    low = torch.randn(2, 3, *size, dtype=torch.float64, generator=generator)
    upsampling, whole = None, low
    if spread:
        upsampling = Upsampling((16, 24), align_corners)  # padded; the image is its top left
        whole = F.interpolate(low, (16, 24), mode="bilinear", align_corners=align_corners)
    mask = a_mask(5)
    mask[4:8, :6] = True
    excluded = tuple(mask_boxes(mask))
    labelled = Boxes(((1, 1, 9, 12), (0, 11, 20, 12), (3, 3, 4, 4)))
    for units in (RegionSize(4, 6).grid(HEIGHT, WIDTH), labelled):
        rest = Rest(units, excluded)
        sums, counts = rest.pool(low, upsampling)
        largest = rest.pool_max(whole[..., :HEIGHT, :WIDTH])
        assert len(rest) == len(units)
        assert np.array_equal(rest.boxes(), units.boxes())
        seen_nothing = False
        for i, (x0, y0, x1, y1) in enumerate(units.boxes().tolist()):
            left = ~mask[y0:y1, x0:x1]
            values = whole[..., y0:y1, x0:x1][..., torch.from_numpy(left)]
            if not left.any():
                seen_nothing = True
                assert counts[i] == 1
                assert (sums[:, i] == 0).all() and (largest[:, i] == 0).all()
                continue
            assert counts[i] == left.sum()
            torch.testing.assert_close(sums[:, i], values.sum(-1), rtol=0, atol=1e-10)
            assert torch.equal(largest[:, i], values.amax(-1))
        assert seen_nothing
    assert torch.equal(
        Rest(labelled, ()).pool(low, upsampling)[0], labelled.pool(low, upsampling)[0]
    )


def a_model(groups):
    """A network at a quarter of the image's size, in float64; grouped heads are differentiated."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1, groups=groups),
        nn.UpsamplingBilinear2d(scale_factor=4),
    )
    spec = ModelSpec("own", "", tuple("abcd"), (0.5,) * 3, (0.2,) * 3, stride=4)
    return SegmentationModel(network.eval(), spec).double()


class Ones:
    """A direction."""

    name, layers, needs = "ones", "last", frozenset()

    def vector(self, bench):
        parameters = bench.model.tail("last").parameters
        return {n: torch.ones_like(p, dtype=torch.float64) for n, p in parameters.items()}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("split_into", [None, 2])
def test_gradients_are_of_what_is_left_alone(groups, split_into, monkeypatch):
    """Against autograd of the mean loss over the pixels that are left, region by region."""
    torch.manual_seed(0)
    model, size = a_model(groups), (24, 40)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    mask = a_mask(5, size)
    mask[8:16, :8] = True
    units = RegionSize(8, 8).grid(*size)
    rest = Rest(units, tuple(mask_boxes(mask)))
    signals = [
        RegionGradient(bias=True), GradientNorm(), KeptMass(Truncated(0.3, "paper")),
        Directional(Ones()), Directional(Ones(), reduction="sum"), ClassProfiles(),
    ]  # fmt: skip
    assert all(isinstance(signal, Pooled) for signal in signals)
    if split_into:
        head = sum(p.numel() for p in model.tail("last").parameters.values())
        monkeypatch.setattr("segal.signals.gradients._HELD", split_into * head)
    bench = Bench(model, Segmentation(), ScanSettings(torch.device("cpu")))
    meters = [signal.prepare(bench) for signal in signals]
    catch = dict.fromkeys(name for meter in meters for name in meter.catch)
    with torch.no_grad():
        evidence = model(x, list(catch))
        found = [meter.measure(evidence, rest) for meter in meters]
    logits = model(x).logits
    parameters = list(model.tail("last").parameters.values())
    left = torch.from_numpy(~mask)

    def gradient(loss):
        parts = torch.autograd.grad(loss, parameters, retain_graph=True)
        return torch.cat([part.flatten() for part in parts])

    for image, own in enumerate(logits):
        for i, (x0, y0, x1, y1) in enumerate(units.boxes().tolist()):
            of = [measured[image, i] for measured in found]
            inside = left[y0:y1, x0:x1]
            if not inside.any():
                assert all((value == 0).all() for value in of)
                continue
            scores = own[:, y0:y1, x0:x1][:, inside]
            p, predicted = scores.detach().softmax(0), scores.argmax(0)
            expected = gradient(F.cross_entropy(scores.T, predicted))
            entropies = -(scores.softmax(0) * scores.log_softmax(0)).sum(0)
            kept = torch.where(p > 0.3, p, 0).sum(0)
            close = {"rtol": 1e-9, "atol": 1e-12}
            torch.testing.assert_close(of[0], expected, **close)
            torch.testing.assert_close(of[1], gradient(entropies.mean()).norm(), **close)
            torch.testing.assert_close(of[2], kept.mean(), **close)
            torch.testing.assert_close(of[3], expected.sum(), **close)
            torch.testing.assert_close(of[4], expected.sum() * inside.sum(), **close)
            profile = class_profile(p, entropies.detach(), predicted)
            torch.testing.assert_close(of[5], profile.flatten(), **close)


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        for kind, high in (("images", 256), ("labels", 3)):
            values = rng.integers(0, high, SIZE).astype(np.uint8)
            if kind == "labels":
                values[values == 2] = 255
            file = tmp_path / "data" / kind / "train" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), values)
    (tmp_path / "data" / "classes.txt").write_text("a\nb\n")
    return open_dataset(tmp_path / "data", "train")


def test_labels_of_what_is_excluded_are_void(dataset):
    mask = a_mask(7, SIZE)
    excluded = {"0.png": tuple(mask_boxes(mask)), "2.png": ((0, 0, 40, 32),)}
    rest = RestOfDataset.of(dataset, excluded)
    for i, out in enumerate((mask, np.zeros_like(mask), np.ones_like(mask))):
        assert np.array_equal(rest.read_label(i), np.where(out, 255, dataset.read_label(i)))
    part = rest.subset([2, 0])
    assert np.array_equal(part.read_label(1), rest.read_label(0))
    assert part.pool.paths == ("2.png", "0.png") and (part.read_label(0) == 255).all()
    left = np.concatenate([rest.read_label(i).ravel() for i in range(3)])
    counts = rest.check()
    assert counts.pixels.tolist() == [(left == c).sum() for c in range(2)]
    assert counts.void == (left == 255).sum()
    assert counts.empty == {2: [(0, 0, 40, 32)]}
    x0, y0, x1, y1 = box = (0, 31, 9, 32)
    boxes = {0: [box, (6, 0, 19, 8)], 1: [box], 2: [box]}
    counts = rest.check(within=boxes)
    values = [rest.read_label(0)[0:8, 6:19], *(rest.read_label(i)[y0:y1, x0:x1] for i in range(3))]
    joined = np.concatenate([v.ravel() for v in values])
    assert counts.pixels.tolist() == [(joined == c).sum() for c in range(2)]
    assert counts.void == (joined == 255).sum()
    assert mask[31].all() and counts.empty == {0: [box], 2: [box]}
    assert all(a < b for a, b in pairwise(sorted(rest.digests())))


def test_sets_that_signals_measure_on_lack_what_is_excluded(dataset):
    mask, bought = a_mask(7, SIZE), [(0, 0, 20, 20)]
    excluded = {"0.png": tuple(mask_boxes(mask))}
    oracle = Oracle(RestOfDataset.of(dataset, excluded), Segmentation())
    sets = run_sets(oracle, dataset.pool, None, {}, {"0.png": bought, "1.png": bought}, excluded)
    inside = painted(bought, SIZE) > 0
    assert np.array_equal(sets["pool"].mask(0), ~mask & ~inside)
    assert np.array_equal(sets["pool"].mask(1), ~inside)
    label = dataset.read_label(0)
    assert np.array_equal(sets["labelled"].label(0), np.where(inside & ~mask, label, 255))


def test_pictures_show_what_is_excluded_as_grey(image_folder):
    pool = open_pool(image_folder)
    drawn = Drawn(
        pool, None, Value("entropy"), {}, "fp32", excluded={pool.paths[1]: [(4, 5, 9, 8)]}
    )
    image, _ = _load(drawn, 1)
    whole = pool.read(1)
    assert (image[5:8, 4:9] == 128).all()
    image[5:8, 4:9] = whole[5:8, 4:9]
    assert np.array_equal(image, whole)
    assert np.array_equal(_load(drawn, 0)[0], pool.read(0))
