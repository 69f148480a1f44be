"""segal chooses which regions of which images to annotate next."""

__version__ = "0.1.0"
