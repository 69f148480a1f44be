"""Made-up street scenes."""
