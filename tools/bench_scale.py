"""Measure what has to hold at scale beside its floor.

    python tools/bench_scale.py selection --help
    python tools/bench_scale.py ranks --help
    python tools/bench_scale.py large --help

`selection` is bench_scale_selection.py, `ranks` (of a scan) bench_scan_ranks.py, `large` (images)
bench_large.py.
"""

import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]


TOOLS = {"selection": "bench_scale_selection", "ranks": "bench_scan_ranks", "large": "bench_large"}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TOOLS:
        print(__doc__)
        sys.exit(2)
    module = import_module(TOOLS[sys.argv[1]])  # each loads its own libraries
    module.main(sys.argv[2:])


if __name__ == "__main__":
    main()
