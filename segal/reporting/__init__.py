"""Reports: what runs of rounds came to, as one page for people."""
