"""The class of the largest logit, beside NumPy's argmax."""

import numpy as np
import pytest
import torch

from segal.functional.labels import predicted_classes


@pytest.mark.parametrize("shape", [(2, 11, 48, 64), (1, 300, 33, 32), (3, 7, 1, 1), (4, 1, 40, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_of_equals(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-3, 4, shape, generator=generator).to(dtype)  # many ties
    found = predicted_classes(logits, 1)
    assert found.dtype == torch.int64
    assert np.array_equal(found, logits.float().numpy().argmax(1))
    assert torch.equal(predicted_classes(logits[0], 0), found[0])
