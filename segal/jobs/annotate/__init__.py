"""Between runs and annotators: what is handed out, what comes back, what is open."""
