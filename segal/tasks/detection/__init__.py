"""Detection: objects in boxes."""
