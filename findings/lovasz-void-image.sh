#!/bin/bash
# segmentation_models_pytorch: LovaszLoss("multiclass", per_image=True, ignore_index=...) of a batch
# in which one image is void all over. Where it is the first image, the loss of the whole batch is an
# empty tensor of shape (0, classes): its mean is NaN, and backward() of its sum gives a gradient of
# zeros to all images, also to those with labels, and says nothing. Where it is another image,
# RuntimeError. Crops of partly labelled images are void now and then.
#
# Expected: the void image counts 0, or is left out, and the others have their gradient. Exits 0
# while it is as described here.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 torchvision==0.29.1 \
    segmentation-models-pytorch==0.6.0 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import sys

import segmentation_models_pytorch as smp
import torch

print("segmentation_models_pytorch", smp.__version__, "torch", torch.__version__)
torch.manual_seed(0)
logits = torch.randn(3, 4, 5, 6, requires_grad=True)
labels = torch.randint(0, 4, (3, 5, 6))
loss = smp.losses.LovaszLoss("multiclass", per_image=True, ignore_index=255)
seen = {}
for void in (None, 0, 2):
    target = labels.clone()
    if void is not None:
        target[void] = 255
    try:
        value = loss(logits, target)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        seen[void] = tuple(value.shape), bool(gradient.any())
    except RuntimeError as error:
        seen[void] = str(error).split("\n")[0][:60]
    print(f"void image {void}: shape of the loss and whether there is a gradient: {seen[void]}")
as_seen = seen[None] == ((), True) and seen[0] == ((0, 4), False) and isinstance(seen[2], str)
sys.exit(not as_seen)
PYTHON
