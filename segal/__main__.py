"""`python -m segal`, and so `torchrun -m segal`."""

from segal.cli import main

main()
