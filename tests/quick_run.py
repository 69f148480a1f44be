"""The configuration of a run that takes seconds."""

from pathlib import Path
from typing import Any


def quick_run(scenes: Path, train: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Of a tiny network on made-up scenes.

    Args:
        scenes: Their root.
        train: Settings of the training that differ.
        **changes: Other sections that differ.
    """
    settings = {
        "data": {"root": str(scenes), "test": "val"},
        "model": {"architecture": "tests.tiny_network:build"},
        "train": {
            "iterations": 2, "batch_size": 2, "crop": "64", "optimizer": "adamw", "lr": 1e-3,
            "workers": 0, **(train or {}),
        },
        "seed_set": "2img",
        "region": "32",
        "budgets": ["10%", "4"],
        "strategy": {"name": "uwe"},
        "overlays": 1,
        "machine": {"threads": 1},
    }  # fmt: skip
    return settings | changes
