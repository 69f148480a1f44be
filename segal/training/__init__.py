"""Trains networks on what is labelled, and evaluates them."""
