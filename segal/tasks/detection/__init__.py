"""Boxes of objects: detectors of several libraries, and what they leave behind for scores."""
