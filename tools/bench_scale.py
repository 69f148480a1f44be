"""Time what has to hold at scale beside its floor.

python tools/bench_scale.py selection --help
"""

# ruff: noqa: PLC0415 (libraries are loaded in the processes that need them)

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]


def main() -> None:
    if sys.argv[1:2] == ["selection"]:
        import bench_scale_selection

        bench_scale_selection.main(sys.argv[2:])
        return
    print(__doc__)
    sys.exit(2)


if __name__ == "__main__":
    main()
