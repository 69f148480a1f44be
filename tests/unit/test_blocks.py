"""A scan in blocks: whoever is killed, and however many share it, it ends with the same bytes."""

import copy
import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segal.candidates.regions import Boxes, RegionSize
from segal.candidates.table import TableWriter
from segal.data.pool import open_pool
from segal.errors import SegalError
from segal.functional.shares import shares
from segal.models.build import build_model, make_spec
from segal.scanning import blocks as blocks_module
from segal.scanning.blocks import divide
from segal.scanning.scan import LABELLED_FOLDER, Scan, ScanSettings, drop_blocks, scan_notes
from segal.signals import MeanFeature, Value
from segal.signals.base import PlainSignal
from segal.system.files import remove
from segal.tasks.segmentation.task import Segmentation
from tests.conftest import CLASSES, write_image
from tests.threaded_ranks import on_ranks

SIZES = [(40, 70)] * 5 + [(64, 48)] * 4 + [(40, 70)] * 2
LABELLED = {1: [(3, 5, 33, 30)], 2: [(3, 5, 33, 30)], 9: [(0, 0, 70, 20), (10, 20, 20, 30)]}


@dataclass(frozen=True)
class Dying(PlainSignal):
    """Says which images were measured, and is killed at one of them."""

    column = "dying"
    of_labelled = False

    def measure(self, evidence, units):
        SEEN.extend(name for name in evidence.images if name not in SEEN)
        if DIE_AT and DIE_AT[0] in evidence.images:
            raise KeyboardInterrupt
        return torch.ones((len(evidence.images), len(units)), dtype=torch.float64)


@dataclass(frozen=True)
class NotFinite(PlainSignal):
    """Is not, of what is labelled of one image."""

    column = "not_finite"

    def measure(self, evidence, units):
        found = torch.ones((len(evidence.images), len(units)), dtype=torch.float64)
        if isinstance(units, Boxes) and "02.png" in evidence.images:
            found[evidence.images.index("02.png")] = torch.nan
        return found


SEEN: list[str] = []
DIE_AT: list[str] = []
SIGNALS = (Value("entropy"), MeanFeature(), Dying())


@given(st.lists(st.integers(1, 40_000_000), max_size=300))
def test_blocks_hold_every_image_once_and_a_power_of_two_of_parcels(pixels):
    found = divide(pixels)
    assert [i for images in found for i in images] == list(range(len(pixels)))
    for images in found[:-1]:
        assert sum(pixels[i] for i in images) >= max(2**18, sum(pixels) / 256)
    assert len(found) <= 257


@pytest.mark.parametrize(("count", "side"), [(3000, 1448), (100_000, 224), (5000, 32)])
def test_usual_batches_end_where_a_block_does(count, side):
    found = divide([side * side] * count)
    assert {len(images) % 16 for images in found[:-1]} == {0}
    assert len(found) <= 256


@given(st.lists(st.integers(1, 10**13), max_size=60), st.integers(1, 20))
def test_shares_are_neighbours_and_even(weights, count):
    found = shares(weights, count)
    assert len(found) == count
    assert [i for share in found for i in share] == list(range(len(weights)))
    for share in found:
        assert sum(weights[i] for i in share) <= sum(weights) / count + max(weights, default=0)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return build_model(make_spec("tests.tiny_network:build", "", CLASSES)).eval()


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    for i, (height, width) in enumerate(SIZES):
        write_image(folder / f"{i:02d}.png", height, width, i)
    return open_pool(folder)


@pytest.fixture
def one_image_a_block(monkeypatch):
    monkeypatch.setattr(blocks_module, "_FEW", 1)
    monkeypatch.setattr(blocks_module, "_LEAST", 1)


def scan(pool, model, signals=SIGNALS, **options):
    return Scan(
        pool=pool,
        task=Segmentation(),
        regions=[RegionSize.parse("32"), RegionSize.parse("image")],
        settings=ScanSettings(device=torch.device("cpu")),
        signals=signals,
        model=model,
        labelled=LABELLED,
        **options,
    )


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def whole(pool, tiny, tmp_path_factory):
    """The files of a scan in one block."""
    folder = tmp_path_factory.mktemp("whole") / "candidates"
    assert len(scan(pool, tiny).blocks(folder).images) == 1
    scan(pool, tiny).run(folder)
    found = contents(folder)
    assert {name.split("/")[0] for name in found} == {"32", "image", LABELLED_FOLDER}
    return found


@pytest.fixture(autouse=True)
def nobody_dies():
    SEEN.clear()
    DIE_AT.clear()


def test_blocks_do_not_change_a_byte(pool, tiny, tmp_path, whole, one_image_a_block):
    assert len(scan(pool, tiny).blocks(tmp_path).images) == len(pool)
    scan(pool, tiny).run(tmp_path / "candidates")
    assert contents(tmp_path / "candidates") == whole
    drop_blocks(tmp_path / "candidates")
    assert [p.name for p in tmp_path.iterdir()] == ["candidates"]


@pytest.mark.parametrize("count", [2, 3, 4, 13])
def test_ranks_share_a_pass(pool, tiny, tmp_path, whole, one_image_a_block, count):
    """Also more of them than blocks, so that some have nothing to do."""
    of_rank = [scan(pool, copy.deepcopy(tiny)) for _ in range(count)]
    found = on_ranks(count, lambda ranks: of_rank[ranks.rank].run(tmp_path / "x", ranks=ranks))
    assert found == [()] * count
    assert contents(tmp_path / "x") == whole


def test_batches_are_the_same_however_many_share_it(pool, tiny, tmp_path, monkeypatch):
    """So sums in them round alike, and no byte tells how many there were."""
    monkeypatch.setattr(blocks_module, "_FEW", 2)
    monkeypatch.setattr(blocks_module, "_LEAST", 1)
    of_rank = [scan(pool, copy.deepcopy(tiny)) for _ in range(3)]
    of_rank = [replace(one, settings=replace(one.settings, batch_size=4)) for one in of_rank]
    of_rank[0].run(tmp_path / "alone")
    on_ranks(3, lambda ranks: of_rank[ranks.rank].run(tmp_path / "x", ranks=ranks))
    assert contents(tmp_path / "x") == contents(tmp_path / "alone")


def test_a_killed_pass_goes_on_within_and_with_another_number_of_ranks(
    pool, tiny, tmp_path, whole, one_image_a_block
):
    progress = []
    DIE_AT.append(pool.paths[6])
    with pytest.raises(KeyboardInterrupt):
        scan(pool, tiny).run(tmp_path / "candidates")
    assert not (tmp_path / "candidates").exists()
    DIE_AT[:], SEEN[:] = [pool.paths[9]], []
    of_rank = [scan(pool, copy.deepcopy(tiny)) for _ in range(2)]
    found = on_ranks(2, lambda ranks: _stopped(of_rank[ranks.rank], tmp_path, ranks))
    assert len(found) == 2
    assert set(pool.paths[:6]).isdisjoint(SEEN)
    DIE_AT.clear()
    SEEN.clear()
    scan(pool, tiny).run(tmp_path / "candidates", lambda *now: progress.append(now))
    assert SEEN[0] == pool.paths[9]
    assert len(SEEN) <= 3
    assert progress[0] == (len(pool) - len(SEEN), len(pool))
    assert contents(tmp_path / "candidates") == whole


def _stopped(work, folder, ranks):
    try:
        work.run(folder / "candidates", ranks=ranks)
    except KeyboardInterrupt:
        raise SegalError("killed") from None


def started(pool, model, folder):
    """The blocks of a scan of which nothing is gathered."""
    work = scan(pool, model)
    blocks = work.blocks(folder)
    work.measure(blocks, range(len(blocks.images)))
    SEEN.clear()
    return work, blocks


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _change(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("32/box.npy", _cut),
        ("image/embedding-mean_feature.npy", _change),
        ("labelled/table.json", os.remove),
        ("block.json", os.remove),
    ],
)
def test_a_block_that_is_damaged_is_found_and_measured_again_alone(
    pool, tiny, tmp_path, whole, one_image_a_block, file, harm
):
    work, blocks = started(pool, tiny, tmp_path / ".candidates.blocks")
    harm(blocks.path(4) / file)
    assert blocks.lacking(range(len(pool))) == [4]
    work.run(tmp_path / "candidates")
    assert [pool.paths[4]] == SEEN
    assert contents(tmp_path / "candidates") == whole


def test_a_clock_that_jumps_changes_nothing(pool, tiny, tmp_path, one_image_a_block, monkeypatch):
    work, blocks = started(pool, tiny, tmp_path / ".candidates.blocks")
    for number, day in enumerate((0, 4e9, 86_400)):
        for path in [*blocks.path(number).rglob("*"), blocks.path(number)]:
            os.utime(path, (day, day))
    monkeypatch.setattr(time, "time", iter(range(10**9, 0, -86_400)).__next__)
    work.run(tmp_path / "candidates")
    assert SEEN == []


def test_blocks_stay_until_the_pass_is_booked(pool, tiny, tmp_path, whole, one_image_a_block):
    work, blocks = started(pool, tiny, tmp_path / ".candidates.blocks")
    work.run(tmp_path / "candidates")
    remove(tmp_path / "candidates" / "32")  # killed, say, before the tables' digests were booked
    SEEN.clear()
    work.run(tmp_path / "candidates")
    assert SEEN == []
    assert contents(tmp_path / "candidates") == whole
    drop_blocks(tmp_path / "candidates")
    assert not blocks.folder.exists()
    drop_blocks(tmp_path / "candidates")


def test_what_is_labelled_and_not_finite_is_told_by_its_image(pool, tiny, tmp_path):
    with pytest.raises(SegalError, match=r"^02\.png, region 1 of 1: not_finite is not finite"):
        replace(
            scan(pool, tiny, [NotFinite()]),
            settings=ScanSettings(device=torch.device("cpu"), batch_size=4),
        ).run(tmp_path / "candidates")


def test_blocks_of_another_network_start_again_in_a_run_and_are_refused_elsewhere(
    pool, tiny, tmp_path, one_image_a_block
):
    torch.manual_seed(1)
    other = build_model(make_spec("tests.tiny_network:build", "", CLASSES)).eval()
    _, blocks = started(pool, tiny, tmp_path / ".candidates.blocks")
    work = scan(pool, other)
    with pytest.raises(SegalError, match=r"block 0 to 10 of another scan(?s:.)*another network"):
        work.take(blocks.folder, tmp_path / "taken")
    other_seed = scan(pool, tiny, seed=1)
    with pytest.raises(SegalError, match="another seed"):
        other_seed.take(blocks.folder, tmp_path / "taken")
    assert not (tmp_path / "taken").exists()
    work.run(tmp_path / "candidates")
    assert len(SEEN) == len(pool)


def test_what_is_lacking_is_named(pool, tiny, tmp_path, whole, one_image_a_block):
    work, blocks = started(pool, tiny, tmp_path / "shards")
    for number in (2, 3, 7):
        for path in sorted(blocks.path(number).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        blocks.path(number).rmdir()
    _cut(blocks.path(5) / "32" / "box.npy")
    with pytest.raises(
        SegalError, match=r"block 2 to 3, 7: missing; block 5: not as it was written"
    ):
        work.take(blocks.folder, tmp_path / "taken")
    work.measure(blocks, range(len(pool)))
    assert [*map(pool.paths.index, SEEN)] == [2, 3, 5, 7]
    work.take(blocks.folder, tmp_path / "taken")
    assert contents(tmp_path / "taken") == whole


def test_a_manifest_leads_nowhere(pool, tiny, tmp_path, one_image_a_block):
    _, blocks = started(pool, tiny, tmp_path / "shards")
    manifest = json.loads((blocks.path(0) / "block.json").read_text())
    manifest["files"]["../../../../etc/passwd"] = [1, "0"]
    (blocks.path(0) / "block.json").write_text(json.dumps(manifest))
    assert blocks.lacking(range(len(pool))) == [0]


@pytest.mark.parametrize("files", [None, {}, [], {"32/box.npy": []}])
def test_a_manifest_without_its_files_is_that_of_no_block(
    pool, tiny, tmp_path, one_image_a_block, files
):
    _, blocks = started(pool, tiny, tmp_path / "shards")
    for path in (blocks.path(0) / "32").iterdir():
        path.unlink()
    manifest = json.loads((blocks.path(0) / "block.json").read_text()) | {"files": files}
    (blocks.path(0) / "block.json").write_text(json.dumps(manifest))
    assert blocks.lacking(range(len(pool))) == [0]


def test_notes_of_a_manifest_are_read_as_text_or_not_at_all(
    pool, tiny, tmp_path, one_image_a_block
):
    work, blocks = started(pool, tiny, tmp_path / "shards")
    for number, notes in enumerate([5, {"a": 1}, [7, ["b"]]]):
        manifest = json.loads((blocks.path(number) / "block.json").read_text()) | {"notes": notes}
        (blocks.path(number) / "block.json").write_text(json.dumps(manifest))
    work.take(blocks.folder, tmp_path / "taken")
    assert scan_notes(tmp_path / "taken") == ["7", "['b']"]


def test_a_full_disk_is_said_and_nothing_that_is_whole_is_lost(
    pool, tiny, tmp_path, one_image_a_block, monkeypatch
):
    work, left = scan(pool, tiny), [7]
    append = TableWriter.append

    def filling(self, *arguments):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, *arguments)

    monkeypatch.setattr(TableWriter, "append", filling)
    with pytest.raises(SegalError, match=r"No space left(?s:.)*run the same command again"):
        work.run(tmp_path / "candidates")
    SEEN.clear()
    work.run(tmp_path / "candidates")
    assert SEEN[0] == pool.paths[2]
    assert len(SEEN) == len(pool) - 2


def test_a_rank_that_writes_elsewhere_is_told_of(pool, tiny, tmp_path, one_image_a_block):
    """Machines that do not share the folder."""
    of_rank = [scan(pool, copy.deepcopy(tiny)) for _ in range(2)]

    def work(ranks):
        return of_rank[ranks.rank].run(tmp_path / str(ranks.rank) / "candidates", ranks=ranks)

    found = on_ranks(2, work)
    assert "block 6 to 10 of another rank is not there" in str(found[0])
    assert not (tmp_path / "0" / "candidates").exists()


_HOLD = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(descriptor, fcntl.LOCK_EX, 3, 2)
print("held", flush=True)
sys.stdin.read()
"""


def test_blocks_that_another_job_is_at_are_refused_until_it_dies(pool, tiny, tmp_path):
    blocks = scan(pool, tiny).blocks(tmp_path)
    command = [sys.executable, "-S", "-c", _HOLD, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        for share in (range(2), range(5, 9), range(3, 3)):
            with blocks.claimed(share):
                pass
        for share in (range(3), range(4, 9), range(9)):
            with (
                pytest.raises(SegalError, match="another job is at work on block"),
                blocks.claimed(share),
            ):
                pass
        other.kill()
        other.wait()
        with blocks.claimed(range(9)):
            pass


def test_a_pass_of_geometry_alone_is_in_blocks_too(pool, tmp_path, one_image_a_block):
    bare = Scan(
        pool=pool,
        task=Segmentation(),
        regions=[RegionSize.parse("32")],
        settings=ScanSettings(device=torch.device("cpu")),
    )
    bare.run(tmp_path / "candidates")
    image = np.load(tmp_path / "candidates" / "32" / "image.npy")
    assert sorted(set(image.tolist())) == list(range(len(pool)))
