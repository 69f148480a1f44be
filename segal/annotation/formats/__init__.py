"""One file a tool or format; each writes a handout and reads answers."""
