"""What can be bought: regions, what is known of them, and what they cost."""
