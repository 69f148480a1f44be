#!/usr/bin/env bash
# A safetensors file does not keep the order of the dictionary that was saved, and its two readers
# disagree on the order: load_file goes by width of the type and then by name, safe_open.keys() by
# name alone. Pairing the names of the one with the values of the other, or with the order of the
# layers, mixes tensors up. Exits 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import sys

import numpy as np
import safetensors
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

saved = {
    "stem.weight": np.zeros(2, np.float32),
    "stem.count": np.zeros(1, np.int64),
    "body.half": np.zeros(3, np.float16),
    "body.weight": np.zeros(4, np.float32),
    "head.count": np.zeros(1, np.int64),
}
save_file(saved, "file.safetensors")
loaded = list(load_file("file.safetensors"))
with safe_open("file.safetensors", "np") as file:
    keys = list(file.keys())
print("safetensors", safetensors.__version__)
print("saved:     ", list(saved))
print("load_file: ", loaded)
print("keys():    ", keys)
as_seen = loaded == ["head.count", "stem.count", "body.weight", "stem.weight", "body.half"]
sys.exit(not (as_seen and keys == sorted(saved)))
PY
