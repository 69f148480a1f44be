"""The ledger of a run that the ranks of a job work at together.

Rank 0 alone holds the run folder and writes. The others read what it has booked, and rank 0 books
only between two points that all ranks have reached. So all of them see the same stages and
purchases, and take the same way through a job. Of one rank this is a ledger like any other.
"""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from segal import __version__
from segal.data.changes import Changes
from segal.errors import SegalError
from segal.runs.ledger import Ledger, Purchase
from segal.runs.run_folder import Inputs, differences
from segal.runs.run_folder import fingerprint as digest
from segal.system.ranks import Ranks


class SharedLedger(Ledger):
    """A run folder's ledger, on every rank of a job; made by `open_shared`.

    Attributes:
        ranks: The ranks of the job.
    """

    ranks: Ranks = Ranks()

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes."""
        return self.ranks.is_first

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """A transaction, on rank 0."""
        assert self.leads, "a rank other than 0 is about to write"
        return super().writing()

    def alone(self, work: Callable[[], None]) -> None:
        """Does on rank 0 what writes; returns on all ranks once it is done.

        Args:
            work: It; it calls neither this nor `finished` or `finish`.
        """
        with self._apart():
            if self.leads:
                work()

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """While it lasts, no other rank reads."""
        self.ranks.wait()
        yield
        self.ranks.wait()

    def finished(self, phase: str, round: int, fingerprint: str) -> bool:
        """As `Ledger.finished`: on all ranks what rank 0 finds.

        Raises:
            SegalError: As `Ledger.finished`, or if ranks would do it with other inputs or settings.
        """
        self.ranks.agree(f"what {phase} of round {round} is done with", fingerprint)
        return bool(self.ranks.told(self.leads and super().finished(phase, round, fingerprint)))

    def finish(
        self,
        phase: str,
        round: int,
        fingerprint: str,
        artefacts: Sequence[Path] = (),
        *,
        seconds: float = 0.0,
        purchases: Sequence[Purchase] = (),
    ) -> list[Purchase]:
        """As `Ledger.finish`, by rank 0; returns on all ranks once it is recorded.

        What other ranks give beside the stage's name and round is not looked at.
        """
        with self._apart():
            if self.leads:
                bought = {"seconds": seconds, "purchases": purchases}
                super().finish(phase, round, fingerprint, artefacts, **bought)  # type: ignore[arg-type]
        return self.purchases(phase, round)


def open_shared(
    folder: Path,
    command: str,
    configuration: Mapping[str, object],
    *,
    ranks: Ranks,
    grows: Collection[str] = (),
    inputs: Inputs | None = None,
    seen: Inputs | None = None,
) -> SharedLedger:
    """Opens a run folder for all ranks of a job, and for no other process.

    Args:
        folder: As `RunFolder.open` takes it; all ranks see it.
        command: Likewise.
        configuration: Likewise; the same on all ranks.
        ranks: Of the job.
        grows: As `RunFolder.open` takes it.
        inputs: Likewise; the same on all ranks.
        seen: What all ranks see alike, beside; the folder does not keep it.

    Raises:
        SegalError: As `RunFolder.open`; or if ranks have other configurations or inputs, or do not
            see the folder.
    """
    inputs = inputs or {}
    own = {"segal": __version__, "command": command, **configuration}
    check_alike(ranks, own, {**inputs, **(seen or {})})
    if ranks.is_first:
        opened = SharedLedger.open(folder, command, configuration, grows=grows, inputs=inputs)
    ranks.wait()
    if not ranks.is_first:
        opened = _follow(folder, ranks.rank)
    opened.ranks = ranks
    return opened


def _follow(folder: Path, rank: int) -> SharedLedger:
    try:
        return SharedLedger.read(folder)
    except SegalError as error:
        raise SegalError(
            f"{folder}: rank {rank} does not see what rank 0 has made",
            expected="a run folder that all ranks see",
            got=error.problem,
            remedy="choose a folder with --out that all machines of the job share",
        ) from error


def check_alike(ranks: Ranks, configuration: Mapping[str, object], inputs: Inputs) -> None:
    """Raises a SegalError on all ranks that names what of one is not as rank 0 has it.

    Args:
        ranks: Of the job.
        configuration: What this one was started with, of what JSON can hold.
        inputs: What it reads.
    """
    if ranks.count == 1:
        return
    digests = {kind: digest(found) for kind, found in inputs.items()}
    first, theirs = ranks.told([configuration, digests])
    lines = differences(first, configuration, "on rank 0", f"on rank {ranks.rank}")
    own = [kind for kind in digests.keys() | theirs if digests.get(kind) != theirs.get(kind)]
    for kind in sorted(
        {kind for said in ranks.texts(json.dumps(own)) for kind in json.loads(said)}
    ):
        changes = Changes.of(ranks.told(inputs.get(kind, {})), inputs.get(kind, {}))
        if changes:
            lines.append(f"{kind}, on rank {ranks.rank}: {changes}")
    every = [line for said in ranks.texts(json.dumps(lines)) for line in json.loads(said)]
    if every:
        raise SegalError(
            "the ranks of this job do not do the same",
            expected=f"the same configuration and files on all {ranks.count} ranks",
            got="what differs from rank 0's:" + "".join(f"\n    {line}" for line in every),
            remedy="start every rank with the same command, and let all of them see the same files",
        )
