#!/bin/bash
# transformers: DPTForSemanticSegmentation with its own ViT (no backbone) takes an image of 32 x 128
# pixels, which is 2 x 8 patches, and returns logits of 64 x 64: its neck takes the square root of
# the number of patches for both sides of the map. Every label of such an image is in another place,
# and nothing is said. An image of 64 x 96 (4 x 6 patches, no square number) raises an error.
#
# Expected: logits of 32 x 128 and of 64 x 96, or a refusal of both. Exits 0 while it is as
# described here.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 transformers==5.24.0 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import sys
import torch, transformers
from transformers import DPTConfig, DPTForSemanticSegmentation
transformers.logging.set_verbosity_error()
print("transformers", transformers.__version__, "torch", torch.__version__)
torch.manual_seed(0)
config = DPTConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
    image_size=64, patch_size=16, backbone_out_indices=[0, 1, 2, 3], is_hybrid=False,
    neck_hidden_sizes=[16, 16, 32, 32], fusion_hidden_size=16, num_labels=3, use_auxiliary_head=False)
network = DPTForSemanticSegmentation(config).eval()
found = {}
for height, width in ((64, 64), (32, 128), (64, 96)):
    with torch.no_grad():
        try:
            found[height, width] = tuple(network(torch.rand(1, 3, height, width)).logits.shape[2:])
        except Exception as error:
            found[height, width] = type(error).__name__
    print(f"image of {height} x {width}: {found[height, width]}")
described = {(64, 64): (64, 64), (32, 128): (64, 64), (64, 96): "RuntimeError"}
if found != described:
    sys.exit("not as described any more")
PYTHON
