"""Maps at the size of an image: beside torch's own interpolation in float64."""

import pytest
import torch
import torch.nn.functional as F

from segal.functional.enlarging import enlarge


@pytest.mark.parametrize("size", [(45, 60), (46, 61), (360, 480), (97, 60), (45, 333)])
@pytest.mark.parametrize("gradients", [False, True])
def test_what_torch_interpolates(size, gradients):
    maps = torch.randn(2, 3, 45, 60, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(gradients):
        found = enlarge(maps, size)
    oracle = F.interpolate(maps.double(), size, mode="bilinear", align_corners=False)
    assert found.shape == oracle.shape and found.is_contiguous()
    # torch finds where a pixel lies in float32, OpenCV in float64
    assert torch.allclose(found.double(), oracle, rtol=0, atol=1e-4 if gradients else 2e-6)


def test_an_image_is_the_same_in_any_batch():
    maps = torch.randn(5, 4, 9, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = enlarge(maps, (72, 56))
        each = torch.cat([enlarge(one[None], (72, 56)) for one in maps])
    assert torch.equal(whole, each)


def test_gradients_go_through():
    maps = torch.randn(1, 1, 3, 3, requires_grad=True)
    enlarge(maps, (9, 9)).sum().backward()
    assert torch.allclose(maps.grad.sum(), torch.tensor(81.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_numbers_are_torchs_affair(dtype):
    maps = torch.randn(1, 2, 4, 4).to(dtype)
    with torch.no_grad():
        assert torch.equal(
            enlarge(maps, (8, 8)),
            F.interpolate(maps, (8, 8), mode="bilinear", align_corners=False),
        )


def test_no_maps():
    with torch.no_grad():
        assert enlarge(torch.zeros(0, 2, 4, 4), (8, 8)).shape == (0, 2, 8, 8)
