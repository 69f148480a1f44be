#!/bin/sh
# Pillow names big-endian BigTIFF among the headers that it accepts, and cannot open such a file: it
# looks for the version 43 in the byte where little-endian files have it, and then reads the header
# as that of a classic TIFF. tifffile and OpenCV read it; Pillow reads the same pixels as
# little-endian BigTIFF, and as big-endian classic TIFF.
# Exits 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pillow==13.0.0 tifffile==2026.3.3 numpy==2.4.6 \
    opencv-python-headless==4.14.0.94
"$folder/venv/bin/python" -W ignore - <<'PY'
import io
import sys

import cv2
import numpy as np
import PIL
import tifffile
from PIL import Image, TiffImagePlugin

print("Pillow", PIL.__version__)
pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
outcomes = {}
for order in "<>":
    for big in (False, True):
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, photometric="rgb", bigtiff=big, byteorder=order, metadata=None)
        data = file.getvalue()
        assert np.array_equal(tifffile.imread(io.BytesIO(data)), pixels)
        assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1], pixels)
        accepted = TiffImagePlugin._accept(data[:4])
        try:
            same = np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
            outcomes[order, big] = "read" if same else "misread"
        except Exception as error:
            outcomes[order, big] = type(error).__name__
        print(data[:4], "header accepted:", accepted, "-", outcomes[order, big])
expected = {("<", False): "read", ("<", True): "read", (">", False): "read",
            (">", True): "UnidentifiedImageError"}
sys.exit(outcomes != expected or not accepted)
PY
