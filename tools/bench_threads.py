"""What it costs and saves that OpenMP threads that wait spin but shortly.

    python tools/bench_threads.py --json threads.json
    python tools/bench_threads.py --demo

Two processes take turns, one training step and one image's scan at a time: in `sleeping`, segal is
imported before torch, and so has said how threads wait; in `spinning`, torch comes first, and its
OpenMP runtime waits in its own way. Both compute with as many threads as there are cores. First
the machine is idle, which is for whoever runs this to see to; then another process keeps a core
busy. `--demo` times `segal demo` in both cases instead.
"""

# ruff: noqa: PLC0415 (what is imported first is what is measured)

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
ORDERS = {"sleeping": "import segal, torch", "spinning": "import torch, segal"}
WORK = ("train", "scan")


def environment() -> dict[str, str]:
    """Without what says how threads wait, or how many there are."""
    says = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS"}
    kept = {name: value for name, value in os.environ.items() if name not in says}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT), kept.get("PYTHONPATH", "")])}


def serve(order: str, threads: int | None, size: int) -> None:
    """Does one piece of work for each line that comes in, and answers with its seconds."""
    exec(ORDERS[order])
    import torch

    from segal.models.build import build_model, make_spec
    from segal.system.machine import use_threads

    use_threads(threads)
    torch.manual_seed(0)
    model = build_model(make_spec("DeepLabV3Plus", "mobilenet_v2", [f"c{i}" for i in range(19)]))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    images = torch.randint(0, 256, (4, size, size, 3), dtype=torch.uint8)
    labels = torch.randint(0, 19, (4, size, size))

    def train() -> None:
        model.train()
        optimizer.zero_grad()
        logits = model.network(model.normalise(images))
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()

    @torch.inference_mode()
    def scan() -> None:
        model.eval()
        model.network(model.normalise(images[:1])).softmax(1)

    work: dict[str, Callable[[], None]] = {"train": train, "scan": scan}
    for line in sys.stdin:
        began = time.perf_counter()
        work[line.strip()]()
        print(time.perf_counter() - began, flush=True)


@contextmanager
def server(order: str, args: argparse.Namespace) -> Iterator[Callable[[str], float]]:
    """A process that works when it is asked to."""
    command = [sys.executable, __file__, "--serve", order, "--size", str(args.size)]
    command += ["--threads", str(args.threads)] if args.threads else []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdin and process.stdout
        source, sink = process.stdout, process.stdin

        def ask(work: str) -> float:
            print(work, file=sink, flush=True)
            return float(source.readline())

        yield ask
        sink.close()


@contextmanager
def busy_core(busy: bool) -> Iterator[None]:
    """Another process that never waits, where asked for."""
    if not busy:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def measure(args: argparse.Namespace) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    with ExitStack() as stack:
        asks = {order: stack.enter_context(server(order, args)) for order in ORDERS}
        for work in WORK:
            for ask in asks.values():
                ask(work)  # warm
        for busy in (False, True):
            with busy_core(busy):
                for work in WORK:
                    seconds: dict[str, list[float]] = {order: [] for order in asks}
                    for turn in range(args.repeats):
                        for order in list(asks)[:: 1 if turn % 2 else -1]:
                            seconds[order].append(asks[order](work))
                    middle = {order: median(values) for order, values in seconds.items()}
                    ratio = middle["sleeping"] / middle["spinning"]
                    rows.append({"busy": busy, "work": work, **middle, "ratio": ratio})
                    print(
                        f"{'beside a busy core' if busy else 'idle':<19} {work:<6}"
                        f"{1e3 * middle['spinning']:>10.1f}{1e3 * middle['sleeping']:>10.1f}"
                        f"{ratio:>8.3f}",
                        flush=True,
                    )
    return rows


def time_demo(args: argparse.Namespace) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for busy in (False, True):
        with tempfile.TemporaryDirectory() as folder, busy_core(busy):
            command = [sys.executable, "-m", "segal", "demo", "--out", str(Path(folder) / "demo")]
            command += ["--threads", str(args.threads)] if args.threads else []
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment())
            rows.append({"busy": busy, "work": "demo", "seconds": time.perf_counter() - began})
            print(f"{'beside a busy core' if busy else 'idle':<19} {rows[-1]['seconds']:.0f} s")
    idle, beside = (float(str(row["seconds"])) for row in rows)
    print(f"ratio {beside / idle:.2f} (aim: at most 2.5)")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, help="by default the available cores")
    parser.add_argument("--repeats", type=int, default=15, help="pieces of work of either kind")
    parser.add_argument("--size", type=int, default=192, help="of the images, in pixels")
    parser.add_argument("--demo", action="store_true", help="time `segal demo` instead")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--serve", choices=ORDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.threads, args.size)
        return
    if args.demo:
        rows = time_demo(args)
    else:
        print(f"{'':<26}{'spinning':>10}{'sleeping':>10}{'ratio':>8}   (ms; aim when idle: 1.02)")
        rows = measure(args)
    if args.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
