"""Takes over from another run what would be done in the very same way here."""

import shutil
from pathlib import Path

from segal.runs.ledger import Ledger
from segal.system.files import replacing


def take_over(source: Path, ledger: Ledger, name: str, number: int, fingerprint: str) -> bool:
    """Copies a phase's files and purchases from another run, if it has finished that phase.

    Args:
        source: The folder of the other run.
        ledger: Of this run.
        name: Of the phase.
        number: The round.
        fingerprint: Of the phase; another run's phase with the same one is the same.

    Returns:
        Whether it was taken over, and is recorded now.

    Raises:
        SegalError: If `source` is no run folder, or a file cannot be written.
    """
    with Ledger.read(source) as other:
        phase = other.phase(name, number)
        if phase is None or phase.fingerprint != fingerprint:
            return False
        if not other.finished(name, number, fingerprint):
            return False
        copies = []
        for path, _, _ in other.artefacts(name, number):
            copies.append(ledger.folder / path)
            with replacing(copies[-1]) as temporary:
                shutil.copyfile(source / path, temporary)
        ledger.finish(
            name,
            number,
            fingerprint,
            copies,
            seconds=phase.seconds,
            purchases=other.purchases(name, number),
        )
    return True
