"""Seconds of a run's phases, and what the loop itself costs.

    python tools/bench_round.py --data CAMVID --encoder-weights WEIGHTS --out OUT

The overhead is all but training, evaluation and the network's forward passes over the pool: checks,
reading images for the scan, pooling, selection, the ledger, and pictures.
"""

import argparse
import json
import time
from pathlib import Path
from unittest.mock import patch

from segal.config import read_config
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run
from segal.runs.history import read_history
from segal.scanning.scan import Scan
from segal.system.machine import describe, find_device

CONFIG = Path(__file__).parents[1] / "configs" / "camvid_run_128.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="CamVid's folder")
    parser.add_argument("--encoder-weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a new run folder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("overrides", nargs="*", help="key.path=value")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} is there already: a finished phase would take no time")
    flags = {
        "data.root": arguments.data,
        "model.encoder_weights": arguments.encoder_weights,
        "out": arguments.out,
        "machine.threads": arguments.threads,
    }
    config, strategy = configure_run(read_config(CONFIG, arguments.overrides, flags))
    forward = [0.0]
    real = Scan._forward

    def timed(self, *arguments):
        started = time.perf_counter()
        evidence = real(self, *arguments)
        forward[0] += time.perf_counter() - started
        return evidence

    started = time.perf_counter()
    with patch.object(Scan, "_forward", timed):
        run_rounds(config, strategy)
    wall = time.perf_counter() - started
    report(arguments.out, wall, forward[0], config.machine.device, arguments.json)


def report(out: Path, wall: float, forward: float, device: str, file: Path | None) -> None:
    rounds = read_history(out).rounds
    names = list(dict.fromkeys(name for r in rounds for name in r.seconds))
    totals = {name: sum(r.seconds.get(name, 0.0) for r in rounds) for name in names}
    network = totals["train"] + totals["evaluate"] + forward
    print(f"{describe(find_device(device))}\n")
    print(f"{'round':<8}" + "".join(f"{name:>10}" for name in names))
    for r in rounds:
        print(f"{r.number:<8}" + "".join(f"{r.seconds.get(n, 0.0):>10.2f}" for n in names))
    print(f"{'all':<8}" + "".join(f"{totals[name]:>10.2f}" for name in names))
    overhead = wall - network
    print(f"\nforward passes of the scans: {forward:.2f} s")
    print(f"outside of all phases: {wall - sum(totals.values()):.2f} s")
    print(f"overhead: {overhead:.2f} of {wall:.2f} s, {100 * overhead / wall:.2f} %")
    if file is not None:
        numbers = {"seconds": totals, "forward": forward, "wall": wall, "overhead": overhead}
        file.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
