"""Work for annotators: what is handed out, and what comes back, whatever tool it is done in."""
