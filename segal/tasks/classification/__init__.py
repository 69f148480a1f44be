"""Image classification: a class for every image, or yes or no for every class."""
