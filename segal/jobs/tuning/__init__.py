"""What other settings would have picked, from a stored scan."""
