"""What of the machine and its files everything stands on."""
