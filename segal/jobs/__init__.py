"""What the commands do, without the command line: each may be called from Python."""
