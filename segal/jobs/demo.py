"""The demo."""

from pathlib import Path


def run_demo(out: Path, seed: int, threads: int | None) -> str:
    raise NotImplementedError
