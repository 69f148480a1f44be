"""The threads of a run: recorded, and the same to its end."""

import torch

from segal.runs.run_folder import RunFolder
from segal.system.cores import chosen_threads
from segal.system.machine import set_threads
from segal.system.ranks import all_ranks

__all__ = ["fix_threads"]


def fix_threads(folder: RunFolder, given: int | None) -> list[str]:
    """Makes a run go on with the threads that it began with, since sums depend on their number.

    More than this rank has cores are not taken, nor others than the user asks for. Every rank has
    to call it, after `use_threads`; rank 0's number is recorded.

    Args:
        folder: Of the run; of ranks other than 0 it is not looked at.
        given: What the configuration says.

    Returns:
        What the user should be told.
    """
    now, ranks = torch.get_num_threads(), all_ranks()
    first = folder.began_with("threads", str(now)) if ranks.is_first else None
    began = int(ranks.told(first))
    if began < now and given is None and chosen_threads() is None:
        set_threads(began)
        return [
            f"The run goes on with {began} threads, as it began. There are cores for {now}: "
            f"--threads {now} is faster, and may change the last bits of what is still computed."
        ]
    if began != now:
        return [
            f"The run began with {began} threads and goes on with {now}: what is computed from "
            "here on may differ in its last bits from that of a run without a change."
        ]
    return []
