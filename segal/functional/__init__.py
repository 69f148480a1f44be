"""Pure tensor functions; nothing here imports from the rest of segal."""
