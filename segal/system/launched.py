"""Which process of a job this is, as torchrun says it; without torch, for what must start fast."""

import os


def _number(name: str, otherwise: int) -> int:
    """Of an environment variable; `all_ranks` refuses what is none."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else otherwise


COUNT = _number("WORLD_SIZE", 1)
"""How many processes there are."""

RANK = _number("RANK", 0) if COUNT > 1 else 0
"""From 0. Rank 0 alone speaks; a mistake is said by whoever finds it."""
