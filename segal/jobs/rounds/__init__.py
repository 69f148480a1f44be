"""Rounds of train, evaluate, scan, select and buy."""
