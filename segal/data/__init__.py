"""Reads images, labels and data sets."""
