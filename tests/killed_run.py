"""A run in a process of its own, which kills itself at a given point or is killed from outside."""

import contextlib
import os
import signal
from pathlib import Path

import torch

import segal.system.files
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run
from segal.runs.ledger import Ledger


def run(raw, point=None, count=1):
    """Runs rounds; the target of a process.

    Args:
        raw: The configuration.
        point: `before` or `after` a phase's row is written, or `sync` for a file that is written
            but not in its place yet; None to live.
        count: At which of these to die.
    """
    torch.set_num_threads(1)
    left = [count]

    def die():
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    finish, sync = Ledger.finish, segal.system.files.sync

    def finishing(*arguments, **options):
        if point == "before":
            die()
        result = finish(*arguments, **options)
        if point == "after":
            die()
        return result

    def syncing(path):
        if point == "sync":
            die()
        sync(path)

    Ledger.finish, segal.system.files.sync = finishing, syncing
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        run_rounds(*configure_run(raw))
