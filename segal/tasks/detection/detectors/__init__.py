"""Families of detectors: one file each, and what finds the family of a network."""
