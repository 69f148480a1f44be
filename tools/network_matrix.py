"""Which networks run: every architecture of smp with a dozen encoders, and encoders of timm.

Each pair goes through what a user does: `segal select --strategy uwe --arch A --encoder E` on a few
small images, with the weights of a network that smp itself built with random weights. Beside it,
smp alone is asked whether it builds the pair and runs it at some size.

    python -m tools.network_matrix try RESULTS.jsonl     # resumable: pairs that are there are left
    python -m tools.network_matrix table RESULTS.jsonl docs/results/network_matrix.md
"""

import argparse
import json
import tempfile
import time
import traceback
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file

from segal.config import MachineConfig, ModelConfig
from segal.errors import SegalError
from segal.jobs.select import run_selection
from segal.jobs.strategies import configure_selection

ENCODERS = (
    *("resnet18", "mobilenet_v2", "efficientnet-b0", "mit_b0", "mobileone_s0", "densenet121"),
    *("vgg11", "dpn68", "xception", "timm-skresnet18", "tu-convnext_atto", "tu-regnety_002"),
    "tu-mobilenetv3_small_100",
)
FURTHER = (
    *(
        ("DPT", f"tu-{name}")
        for name in (
            *("vit_tiny_patch16_224", "vit_small_patch16_dinov3", "vit_small_patch14_dinov2"),
            *("deit_tiny_patch16_224", "deit3_small_patch16_224", "beit_base_patch16_224"),
            "eva02_tiny_patch14_224",
        )
    ),
    *(
        ("UPerNet", f"tu-{name}")
        for name in (
            *("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "maxvit_nano_rw_256"),
            *("coatnet_nano_rw_224", "hiera_tiny_224", "convnext_tiny", "convnextv2_atto"),
            "vit_tiny_patch16_224",
        )
    ),
    *(
        ("Unet", f"tu-{name}")
        for name in (
            *("maxvit_tiny_tf_224", "coatnet_0_rw_224", "tf_efficientnetv2_b0", "regnetz_b16"),
        )
    ),
    ("FPN", "tu-mobilenetv4_conv_small"),
    ("DeepLabV3Plus", "tu-efficientnetv2_rw_t"),
    ("DeepLabV3Plus", "tu-resnet50d"),
)
CLASSES, SIZE = 3, (128, 160)
OF_SMP = ((128, 160), (96, 160), (256, 256), (224, 224), (448, 448))
"""Sizes that smp alone is tried at."""


def pairs() -> list[tuple[str, str]]:
    """All that is tried."""
    names = sorted(cls.__name__ for cls in smp.MODEL_ARCHITECTURES_MAPPING.values())
    return [*((name, encoder) for name in names for encoder in ENCODERS), *FURTHER]


def of_smp(architecture: str, encoder: str) -> tuple[torch.nn.Module | None, str]:
    """The network as smp alone builds it, and the sizes that it runs at or the first reason."""
    try:
        network = smp.create_model(architecture, encoder, encoder_weights=None, classes=CLASSES)
    except Exception as error:
        return None, f"not built: {_line(error)}"
    reasons = []
    for size in OF_SMP:
        try:
            with torch.no_grad():
                network.eval()(torch.zeros(1, 3, *size))
            return network, f"runs at {size[0]} x {size[1]}"
        except Exception as error:
            reasons.append(_line(error))
    return network, f"runs at no size tried: {reasons[0]}"


def attempt(architecture: str, encoder: str, images: Path, scratch: Path) -> dict[str, object]:
    """What becomes of `segal select --strategy uwe` with a pair."""
    torch.manual_seed(0)
    network, alone = of_smp(architecture, encoder)
    weights = scratch / "weights.safetensors"
    state = {"nothing": torch.zeros(1)} if network is None else network.state_dict()
    save_file({key: value.contiguous().clone() for key, value in state.items()}, weights)
    out, started = scratch / "out", time.perf_counter()
    outcome, detail, read = "runs", "", 0
    try:
        config, strategy = configure_selection(
            {
                "images": images,
                "checkpoint": weights,
                "model": ModelConfig(
                    architecture=architecture, encoder=encoder, num_classes=CLASSES
                ).model_dump(exclude_none=True),
                "region": "64",
                "budget": "20%",
                "strategy": {"name": "uwe"},
                "overlays": 0,
                "machine": MachineConfig(device="cpu", threads=1).model_dump(),
                "out": out,
            }
        )
        summary = run_selection(config, strategy).summary
        detail = f"multiple {summary['network']['stride']}"
    except SegalError as error:
        outcome, detail = "refused", f"{error.problem}: {error.got}"
        read = len(list(out.rglob("*.npy")))
    except Exception:
        outcome, detail = "traceback", traceback.format_exc(limit=-2)
    return {
        "architecture": architecture,
        "encoder": encoder,
        "smp": alone,
        "outcome": outcome,
        "detail": detail,
        "scanned": read > 0,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]


def try_all(results: Path, only: str | None) -> None:
    """Tries every pair that the file has no line of, and adds one for each."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    lines = results.read_text().splitlines() if results.is_file() else []
    done = {(one["architecture"], one["encoder"]) for one in map(json.loads, lines)}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        images.mkdir()
        rng = np.random.default_rng(0)
        for number in range(2):
            small = rng.integers(0, 256, (SIZE[0] // 16, SIZE[1] // 16, 3), dtype=np.uint8)
            cv2.imwrite(str(images / f"{number}.png"), cv2.resize(small, SIZE[::-1]))
        for architecture, encoder in pairs():
            if (architecture, encoder) in done or (only and only not in (architecture, encoder)):
                continue
            with tempfile.TemporaryDirectory() as scratch:
                one = attempt(architecture, encoder, images, Path(scratch))
            with results.open("a") as file:
                file.write(json.dumps(one) + "\n")
            print(architecture, encoder, one["outcome"], one["detail"], one["seconds"], flush=True)


def table(results: Path, page: Path) -> None:
    """Writes the page: what runs, what is refused and why."""
    found = {
        (one["architecture"], one["encoder"]): one
        for one in map(json.loads, results.read_text().splitlines())
    }
    grid = [pair for pair in pairs() if pair not in FURTHER and pair in found]
    able = [pair for pair in grid if "runs at " in found[pair]["smp"] and _able(found[pair])]
    counts = Counter(found[pair]["outcome"] for pair in grid)
    lost = [pair for pair in able if found[pair]["outcome"] != "runs"]
    lines = [
        "# Networks: what runs",
        "",
        "Made by `python -m tools.network_matrix`: `segal select --strategy uwe` on two images of "
        f"{SIZE[0]} x {SIZE[1]} pixels with random weights, and beside it "
        "segmentation_models_pytorch (smp) alone at several sizes. "
        f"torch {version('torch')}, smp {version('segmentation-models-pytorch')}, "
        f"timm {timm.__version__}.",
        "",
        f"Of {len(grid)} pairs of smp's architectures and {len(ENCODERS)} encoders, smp alone "
        f"builds and runs {len(able)} at some size; segal runs {counts['runs']}, refuses "
        f"{counts['refused']} before work starts, and ends in a traceback on "
        f"{counts['traceback']}. Pairs that smp runs and segal does not: {len(lost)}.",
        "",
        "| | " + " | ".join(ENCODERS) + " |",
        "|---|" + "---|" * len(ENCODERS),
    ]
    for name in dict.fromkeys(name for name, _ in grid):
        marks = (_mark(found.get((name, encoder))) for encoder in ENCODERS)
        lines.append(f"| {name} | " + " | ".join(marks) + " |")
    lines += [
        "",
        "Refused, with the reason:",
        "",
        "| network | encoder | reason |",
        "|---|---|---|",
    ]
    for pair in (*grid, *(p for p in FURTHER if p in found)):
        if found[pair]["outcome"] != "runs":
            lines.append(f"| {pair[0]} | {pair[1]} | {_cell(found[pair]['detail'])} |")
    lines += [
        "",
        "## Encoders of timm that people use",
        "",
        "| network | encoder | segal | sides | smp alone |",
        "|---|---|---|---|---|",
    ]
    for pair in FURTHER:
        if pair in found:
            one = found[pair]
            sides = one["detail"] if one["outcome"] == "runs" else ""
            cells = (*pair, one["outcome"], sides, _cell(one["smp"]))
            lines.append("| " + " | ".join(cells) + " |")
    page.write_text("\n".join(lines) + "\n")


def _able(one: dict[str, str]) -> bool:
    return one["smp"].startswith("runs at ") and "no size" not in one["smp"]


def _mark(one: dict[str, str] | None) -> str:
    return "" if one is None else {"runs": "yes", "refused": "no"}.get(one["outcome"], "traceback")


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    trying = commands.add_parser("try")
    trying.add_argument("results", type=Path)
    trying.add_argument("--only", help="an architecture or an encoder")
    writing = commands.add_parser("table")
    writing.add_argument("results", type=Path)
    writing.add_argument("page", type=Path)
    options = parser.parse_args()
    if options.command == "try":
        try_all(options.results, options.only)
    else:
        table(options.results, options.page)


if __name__ == "__main__":
    main()
