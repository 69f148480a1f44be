"""Benchmarks of frozen encoders, and of what picks from their features.

python tools/bench_frozen.py herding --help
"""

import importlib
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

BENCHMARKS = {"herding": "bench_herding"}
"""By name, the module that has its `main`."""

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
        sys.exit(f"{__doc__}\nexpected one of {', '.join(BENCHMARKS)}")
    importlib.import_module(BENCHMARKS[sys.argv[1]]).main(sys.argv[2:])
