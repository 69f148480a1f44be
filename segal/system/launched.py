"""Which process of a job this is, as torchrun says it; without torch, for what must start fast."""

import os

COUNT = int(os.environ.get("WORLD_SIZE", "1"))
"""How many processes there are."""

RANK = int(os.environ.get("RANK", "0")) if COUNT > 1 else 0
"""From 0. Rank 0 alone speaks; a mistake is said by whoever finds it."""
