"""How many threads a process computes with: cores, quotas, ranks, what users and torchrun say."""

import math
from pathlib import Path

import psutil
import pytest
import torch
from threadpoolctl import threadpool_info

from segal.candidates.kept import Kept
from segal.jobs.threads import fix_threads
from segal.runs.ledger import Ledger
from segal.scanning.workbench import read_batch
from segal.system import cores, machine
from segal.system.cores import available_cores, chosen_threads, own_cores, quota
from segal.system.ranks import Ranks

V2 = "30 23 0:26 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 {root} {mount} rw,relatime - cgroup cgroup rw,cpu,cpuacct"
OTHER = "33 31 0:30 / {mount}/memory rw - cgroup cgroup rw,memory"


def process(tmp_path: Path, groups: str, *mounts: str) -> Path:
    """A folder like /proc/self."""
    folder = tmp_path / "proc"
    folder.mkdir()
    (folder / "cgroup").write_text(groups + "\n")
    (folder / "mountinfo").write_text("\n".join(mounts) + "\n")
    return folder


def limit(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ("max 100000", "max 100000", math.inf),
        ("400000 100000", "max 100000", 4.0),
        ("max 100000", "150000 100000", 1.5),
        ("200000 100000", "800000 100000", 2.0),  # what is outside holds as well
    ],
)
def test_quota_is_the_least_of_the_groups_a_process_is_nested_in(tmp_path, outer, inner, expected):
    mount = tmp_path / "sys fs"  # mountinfo escapes blanks
    shown = str(mount).replace(" ", "\\040")
    proc = process(tmp_path, "0::/slice/job/step", V2.format(root="/", mount=shown))
    limit(mount / "slice", cpu__max=outer)
    limit(mount / "slice/job/step", cpu__max=inner)
    limit(mount / "elsewhere", cpu__max="10000 100000")
    assert quota(proc) == expected


def test_quota_of_a_container_that_sees_its_group_as_the_root(tmp_path):
    """The group goes by its name outside, which is not mounted."""
    proc = process(tmp_path, "0::/outside/abc", V2.format(root="/abc", mount=tmp_path / "fs"))
    limit(tmp_path / "fs", cpu__max="300000 100000")
    assert quota(proc) == 3


def test_quota_of_version_1(tmp_path):
    fs = tmp_path / "fs"
    proc = process(
        tmp_path,
        "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc/inner\n0::/",
        OTHER.format(mount=fs),
        V1.format(root="/docker/abc", mount=fs / "cpu"),
        V2.format(root="/", mount=fs / "unified"),
    )
    limit(fs / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    limit(fs / "cpu/inner", cpu__cfs_quota_us="250000", cpu__cfs_period_us="100000")
    limit(fs / "memory/docker/abc", cpu__max="10000 100000")
    assert quota(proc) == 2.5


def test_no_quota_where_nothing_tells_of_one(tmp_path):
    assert quota(tmp_path / "nothing") == math.inf
    assert quota() > 0


class FakeRanks(Ranks):
    """Ranks whose affinities are given."""

    affinities: list[set[int]]

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        every = torch.zeros((self.count, *own.shape), dtype=own.dtype)
        for rank, affinity in enumerate(self.affinities):
            every[rank][list(affinity)] = 1
        assert every[self.rank].equal(own)
        return every


def shares(monkeypatch, affinities, here=None, allowed=math.inf):
    """What each rank has; `here` of them are on each machine."""
    count, found = len(affinities), []
    monkeypatch.setattr(cores, "quota", lambda: allowed)
    for rank, affinity in enumerate(affinities):
        each = here or count
        ranks = FakeRanks(rank, count, each, rank % each)
        object.__setattr__(ranks, "affinities", affinities)
        monkeypatch.setattr(cores, "_affinity", lambda affinity=affinity: affinity)
        found.append(own_cores(ranks))
    return found


def test_ranks_share_the_cores_of_their_machine(monkeypatch):
    every = set(range(64))
    assert shares(monkeypatch, [every]) == [64]
    assert shares(monkeypatch, [every] * 2) == [32, 32]
    assert shares(monkeypatch, [every] * 3) == [21, 21, 21]
    assert shares(monkeypatch, [every] * 4, here=2) == [32] * 4
    assert shares(monkeypatch, [{0, 1}] * 4) == [1] * 4
    assert shares(monkeypatch, [set(range(9))] * 3) == [3, 3, 3]


def test_a_quota_is_shared_too(monkeypatch):
    every = set(range(64))
    assert shares(monkeypatch, [every], allowed=1.5) == [1]
    assert shares(monkeypatch, [every] * 2, allowed=8) == [4, 4]
    assert shares(monkeypatch, [every] * 3, allowed=0.5) == [1, 1, 1]


def test_ranks_that_are_bound_to_cores_have_these(monkeypatch):
    assert shares(monkeypatch, [{0, 1, 2, 3}, {4, 5, 6, 7}]) == [4, 4]
    assert shares(monkeypatch, [{0, 1, 2, 3}, {2, 3}]) == [3, 1]


class Process:
    def __init__(self, *above: dict[str, str]) -> None:
        self.above = above

    def parents(self) -> list["Process"]:
        return [Process(*self.above[i:]) for i in range(len(self.above))]

    def environ(self) -> dict[str, str]:
        return self.above[0]


BY_TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("own", "above", "expected"),
    [
        ({}, [{}], None),
        ({"OMP_NUM_THREADS": "3"}, [{}], 3),
        ({"OMP_NUM_THREADS": "4,2"}, [{}], 4),
        ({"OMP_NUM_THREADS": "many"}, [{}], None),
        (BY_TORCHRUN, [{}, {"OMP_NUM_THREADS": "1"}], None),
        (BY_TORCHRUN, [BY_TORCHRUN, {}], None),  # a script in between
        (BY_TORCHRUN, [{"OMP_NUM_THREADS": "1"}], 1),
        (BY_TORCHRUN, [BY_TORCHRUN, {"OMP_NUM_THREADS": "1"}], 1),
        (BY_TORCHRUN | {"OMP_NUM_THREADS": "2"}, [{}], 2),  # which torchrun never sets
    ],
)
def test_what_torchrun_set_is_no_choice_of_the_user(monkeypatch, own, above, expected):
    for name in BY_TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(psutil, "Process", lambda: Process(*above))
    assert chosen_threads() == expected


def test_a_process_that_may_not_be_looked_at_counts_as_torchrun(monkeypatch):
    def refused() -> Process:
        raise psutil.AccessDenied

    for name, value in BY_TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(psutil, "Process", refused)
    assert chosen_threads() is None


@pytest.fixture
def restored():
    before = torch.get_num_threads()
    yield
    machine.set_threads(before)


@pytest.mark.usefixtures("restored")
def test_all_libraries_take_the_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.use_threads(2) == 2 == torch.get_num_threads()
    assert {found["num_threads"] for found in threadpool_info()} == {2}
    assert machine.use_threads(None) == available_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.use_threads(None) == 1


def fixed(folder: Path, threads: int, given: int | None = None, work: bool = False):
    machine.set_threads(threads)
    with Ledger.open(folder, "select", {}) as ledger:
        notes = fix_threads(ledger, given)
        if work:
            ledger.finish("scan-0", 0, "f")
    return torch.get_num_threads(), notes


@pytest.mark.usefixtures("restored")
def test_a_run_keeps_its_threads_to_the_end(monkeypatch, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run = tmp_path / "run"
    assert fixed(run, 3) == (3, [])
    assert fixed(run, 2, work=True) == (2, [])  # nothing was done yet
    assert fixed(run, 2) == (2, [])
    threads, (note,) = fixed(run, 4)
    assert threads == 2
    assert "goes on with 2 threads, as it began. There are cores for 4" in note
    for now, given in ((1, None), (4, 4)):
        threads, (note,) = fixed(run, now, given)
        assert threads == now
        assert f"began with 2 threads and goes on with {now}" in note
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert fixed(run, 4)[0] == 4


@pytest.mark.usefixtures("restored")
def test_ranks_go_by_what_the_first_recorded(monkeypatch, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    fixed(tmp_path / "run", 2, work=True)

    class Second(Ranks):
        def told(self, value):
            assert value is None
            return "2"

    monkeypatch.setattr("segal.jobs.threads.all_ranks", lambda: Second(1, 2, 2, 1))
    machine.set_threads(4)
    assert fix_threads(None, None)  # its ledger is not looked at
    assert torch.get_num_threads() == 2


def test_how_many_threads_read(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for threads, expected in ((2, [1, 2, 2]), (64, [1, 8, 4])):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert [machine.readers(None, device) for device in (cpu, gpu, None)] == expected
        assert [machine.readers(0, device) for device in (cpu, gpu, None)] == [0, 0, 1]
        assert [machine.readers(12, device) for device in (cpu, gpu, None)] == [12, 12, 12]


def test_a_gpu_fetches_from_pinned_memory(monkeypatch):
    class Pool:
        def batch(self, batch):
            return images

    images = torch.zeros(2, 4, 4, 3)
    pinned = torch.ones(1)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned)
    assert read_batch(Pool(), [0, 1], torch.device("cpu")) is images
    assert read_batch(Pool(), [0, 1], torch.device("cuda")) is pinned
    images = Kept("last", (torch.zeros(2, 3), torch.zeros(2, 4)), (4, 4))
    assert all(part is pinned for part in read_batch(Pool(), [0], torch.device("cuda")).maps)
