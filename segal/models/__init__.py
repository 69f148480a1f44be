"""Networks, and what they offer to the scan."""
