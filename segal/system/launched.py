"""Which process of a job this is, as torchrun says it; without torch, for what must start fast."""

import os

RANK = int(os.environ.get("RANK", "0")) if os.environ.get("WORLD_SIZE", "1") != "1" else 0
"""From 0. Rank 0 alone speaks; a mistake is said by whoever finds it."""
