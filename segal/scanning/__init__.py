"""One pass over the pool."""
