"""What was tried with segal, and how it went: docs/results/compatibility.md, by one command."""
