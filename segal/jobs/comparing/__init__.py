"""Arms beside one another."""
