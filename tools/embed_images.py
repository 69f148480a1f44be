"""Writes the features of images by a frozen network, as a data set of the layout `features`.

    python tools/embed_images.py cifar10.npz features --arch torchvision:mobilenet_v2 \\
        --weights mobilenet_v2.pth --side 96

What comes out is `FOLDER/SPLIT/features.npy` (N, D) float16, `labels.npy`, and `classes.txt`:
trained on with `task: classification`, a linear layer on it is the same network with all but its
last layer frozen, and a round of it takes seconds.
"""

# ruff: noqa: PLC0415 (torch reads its thread settings when first imported)

import argparse
import os
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="of the task classification, whatever its layout")
    parser.add_argument("out", type=Path)
    parser.add_argument("--arch", default="torchvision:mobilenet_v2")
    parser.add_argument("--weights", type=Path, required=True, help="local file of its weights")
    parser.add_argument("--side", type=int, help="of the square that images are brought to")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))

    import numpy as np
    import torch

    from segal.data.pool import ImagePool
    from segal.data.prefetch import prefetch
    from segal.data.transforms import stack_images
    from segal.models.build import build_model, make_spec
    from segal.models.wrapped import FEATURES
    from segal.scanning.workbench import batches
    from segal.system.console import bar
    from segal.system.machine import use_threads
    from segal.tasks.classification.datasets import open_split, splits

    use_threads(args.threads)
    for split in splits(args.data):
        dataset = open_split(args.data, split, workers=1)
        names = dataset.classes.names
        spec = make_spec(args.arch, "", names, task="classification", input_side=args.side)
        model = build_model(spec, args.weights).eval()
        parts = []
        grouped = batches(dataset.pool, range(len(dataset)), args.batch_size)
        pool = dataset.pool

        def read(batch: list[int], pool: ImagePool = pool) -> torch.Tensor:
            return stack_images([pool.read(i) for i in batch])

        with bar(f"Features of {split}") as advance, torch.inference_mode():
            for images in prefetch(read, grouped, 1):
                features = model(model.normalise(images), (FEATURES,)).caught
                parts.append(features.flatten(1).half().numpy())
                advance(sum(map(len, parts)), len(dataset))
        folder = args.out / split
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "features.npy", np.concatenate(parts))
        np.save(folder / "labels.npy", dataset.labels)
    (args.out / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
