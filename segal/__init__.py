"""segal chooses which regions of which images to annotate next."""

import os

# Waiting OpenMP threads sleep rather than spin, which beside a busy core is many times faster;
# torch reads this when it is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
