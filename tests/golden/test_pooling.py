"""Pooling against dense sums: upsample with torch in float64, crop, slice, add up."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segal.candidates.evidence import Upsampling
from segal.candidates.regions import Boxes, RegionSize
from segal.functional.pooling import interpolation_matrix, interval_weights


def dense_sums(x, upsampling, size, boxes):
    """Brute force, in float64."""
    up = F.interpolate(
        x.double(), upsampling.size, mode="bilinear", align_corners=upsampling.align_corners
    )[..., : size[0], : size[1]]
    return torch.stack([up[..., y0:y1, x0:x1].sum((-1, -2)) for x0, y0, x1, y1 in boxes], 1)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("cells", "pixels"), [(1, 1), (1, 7), (4, 16), (5, 13), (9, 9), (8, 5)])
def test_interpolation_matrix_equals_torch(cells, pixels, align_corners):
    expected = F.interpolate(
        torch.eye(cells, dtype=torch.float64)[None],
        pixels,
        mode="linear",
        align_corners=align_corners,
    )[0].T
    matrix = interpolation_matrix(cells, pixels, align_corners)
    torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-12)


sizes = st.tuples(st.integers(1, 90), st.integers(1, 90))


@settings(max_examples=60, deadline=None)
@given(
    size=sizes,
    region=st.sampled_from(["1", "7", "16", "32", "13x29", "200", "image"]),
    stride=st.sampled_from([1, 2, 4, 8]),
    align_corners=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_pooled_sums_equal_dense_sums(size, region, stride, align_corners, seed):
    height, width = size
    padded = (-(-height // 16) * 16, -(-width // 16) * 16)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, padded[0] // stride, padded[1] // stride, generator=generator)
    upsampling = Upsampling(padded, align_corners)
    grid = RegionSize.parse(region).grid(height, width)
    expected = dense_sums(x, upsampling, size, grid.boxes().tolist())

    sums, counts = grid.pool(x.double(), upsampling)
    torch.testing.assert_close(sums, expected, rtol=1e-11, atol=1e-9)
    assert counts.sum() == height * width
    single, _ = grid.pool(x, upsampling)
    scale = expected.abs().amax() + 1
    torch.testing.assert_close(single / scale, expected / scale, rtol=0, atol=1e-5)

    boxes = Boxes(tuple(tuple(box) for box in grid.boxes().tolist()))
    torch.testing.assert_close(boxes.pool(x.double(), upsampling)[0], sums, rtol=1e-11, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(size=sizes, region=st.sampled_from(["1", "7", "16", "13x29", "image"]))
def test_value_maps_pool_to_dense_sums_and_maxima(size, region):
    generator = torch.Generator().manual_seed(size[0] * 100 + size[1])
    x = torch.rand(2, 1, *size, generator=generator, dtype=torch.float64)
    grid = RegionSize.parse(region).grid(*size)
    boxes = grid.boxes().tolist()
    parts = [x[..., y0:y1, x0:x1] for x0, y0, x1, y1 in boxes]
    sums, counts = grid.pool(x)
    torch.testing.assert_close(sums, torch.stack([p.sum((-1, -2)) for p in parts], 1))
    largest = torch.stack([p.amax((-1, -2)) for p in parts], 1)
    assert torch.equal(grid.pool_max(x), largest)
    assert torch.equal(Boxes(tuple(map(tuple, boxes))).pool_max(x), largest)
    assert counts.tolist() == [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]


@settings(max_examples=60, deadline=None)
@given(
    size=sizes,
    region=st.one_of(
        st.just("image"),
        st.integers(1, 120).map(str),
        st.tuples(st.integers(1, 120), st.integers(1, 120)).map(lambda s: f"{s[0]}x{s[1]}"),
    ),
)
def test_a_grid_covers_every_pixel_once(size, region):
    covered = torch.zeros(size, dtype=torch.int32)
    for x0, y0, x1, y1 in RegionSize.parse(region).grid(*size).boxes().tolist():
        assert x0 < x1
        assert y0 < y1
        covered[y0:y1, x0:x1] += 1
    assert bool((covered == 1).all())


def test_coarse_regions_are_sums_of_the_fine_ones_they_hold():
    x = torch.rand(1, 2, 20, 28, dtype=torch.float64)
    upsampling = Upsampling((80, 112), align_corners=True)
    fine, _ = RegionSize.parse("16").grid(77, 109).pool(x, upsampling)
    coarse, _ = RegionSize.parse("32").grid(77, 109).pool(x, upsampling)
    nested = F.pad(fine.reshape(5, 7, 2), (0, 0, 0, 1, 0, 1)).reshape(3, 2, 4, 2, 2).sum((1, 3))
    torch.testing.assert_close(coarse.reshape(3, 4, 2), nested, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_pooled_in_single_precision(dtype):
    x = torch.full((1, 3, 32, 128), 40.0, dtype=dtype)
    upsampling = Upsampling((512, 2048), align_corners=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums, counts = RegionSize().grid(512, 2048).pool(x, upsampling)
    torch.testing.assert_close(
        sums[0, 0] / counts[0], torch.full((3,), 40.0).double(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("interval", [(-1, 2), (3, 3), (0, 9)])
def test_intervals_outside_the_axis_are_refused(interval):
    with pytest.raises(ValueError, match="expected 0 <= start < stop"):
        interval_weights([interval], 8)
