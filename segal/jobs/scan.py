"""`segal scan`: a share of the pass over a pool, into a folder that other machines share.

Blocks of images lie in that folder, each of them whole or not there. `segal select --from-scan`
takes them when all are there.
"""

import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from segal.config import SelectConfig
from segal.errors import SegalError
from segal.functional.shares import shares
from segal.jobs.inputs import image_digests, image_shapes, refuse_out_within
from segal.jobs.keeping import Keeping
from segal.jobs.network import with_folder
from segal.jobs.select import identity_with, load_network, open_labels_of
from segal.jobs.selection_pool import SelectionPool, SelectionScan
from segal.models.build import check_image_sizes
from segal.runs.following import check_alike
from segal.runs.pool_log import PoolLog
from segal.scanning.blocks import numbered
from segal.strategies.base import PassContext, Strategy
from segal.system.console import bar
from segal.system.machine import find_device, use_threads
from segal.system.ranks import all_ranks
from segal.tasks import find_task


@dataclass(frozen=True)
class Shard:
    """A share of a scan.

    Attributes:
        number: Which, from 1.
        of: How many there are.
    """

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads `3/16`.

        Raises:
            SegalError: If it is none.

        Examples:
            >>> Shard.parse("3/16")
            Shard(number=3, of=16)
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise SegalError(
                "shard: not a share of a scan",
                expected="NUMBER/COUNT, from 1/COUNT to COUNT/COUNT, such as 3/16",
                got=repr(text),
                remedy="count shards from 1",
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True)
class ScanOutcome:
    """What of a scan is there.

    Attributes:
        out: The folder.
        headline: What was measured, in a line.
        notes: What the user should be told.
    """

    out: Path
    headline: str
    notes: tuple[str, ...]


def run_scan(config: SelectConfig, strategy: Strategy, shard: Shard) -> ScanOutcome:
    """Measures a share of the first pass that a selection would make over its pool.

    What is there already is kept. A strategy that asks for another pass in view of the first gets
    it from the selection.

    Args:
        config: Of the selection; its `out` is the folder of blocks.
        strategy: The strategy that `config.strategy` names.
        shard: Which share.

    Raises:
        SegalError: For anything that the user can mend.
    """
    config, ranks = with_folder(config), all_ranks()
    device = find_device(config.machine.device)
    use_threads(config.machine.threads)
    refuse_out_within(config.out, config.images, "folder of images")
    _refuse_others_folder(config.out)
    model = load_network(config, strategy)
    labels = open_labels_of(config, strategy, model)
    model = None if model is None else model.to(device)
    looked_at = SelectionPool.open(config, strategy, labels, model, PoolLog(), {})
    if model is not None:
        check_image_sizes(model, image_shapes(looked_at.pool, model.spec))
    context = PassContext(shared_features=find_task(config.task).shared_features)
    signals = next(iter(strategy.passes(context)), [])
    sets = looked_at.sets(config, labels)
    identity = identity_with(config, labels)
    keeping = Keeping.of(config)
    scan = SelectionScan(config, looked_at, sets, model, device, keeping, identity).of(signals)
    if not scan.signals:
        raise SegalError(
            f"strategy: {config.strategy['name']} measures nothing",
            expected="a strategy that asks for a pass over the pool",
            got="one that picks without",
            remedy="run segal select at once",
        )
    blocks = scan.blocks(config.out)
    digests = dict(image_digests(looked_at.pool))
    check_alike(ranks, blocks.scan, {f"images in {config.images}": digests})
    sizes = [sum(scan.pixels(image) for image in images) for images in blocks.images]
    share = shares(sizes, shard.of)[shard.number - 1]
    part = range(len(sizes))[share.start : share.stop]
    if ranks.is_first:
        blocks.refuse_others()
    claim = blocks.claimed(part) if ranks.is_first else nullcontext()
    with claim, bar(f"Scanning shard {shard}") as advance:
        scan.measure(blocks, part, advance, ranks)
    notes = [*([] if model is None else model.notes), *looked_at.notes, *labels.labelled.notes]
    return ScanOutcome(
        config.out,
        f"Shard {shard}: "
        + (f"block {numbered(part)} of {len(sizes)} is there" if part else "nothing to measure")
        + f", with {sum(len(blocks.images[n]) for n in part)} of {len(looked_at.pool)} images.",
        tuple(dict.fromkeys(notes)),
    )


def _refuse_others_folder(folder: Path) -> None:
    """Raises a SegalError if a folder holds what is no scan."""
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in there if not name.isdecimal() and not name.startswith(".")]
    if others:
        raise SegalError(
            f"{folder}: not a folder of a scan, and not empty",
            expected="a folder that is not there yet, that is empty, or that segal scan made",
            got=f"a folder that holds {', '.join(map(repr, others[:3]))}",
            remedy="choose another folder with --out",
        )
