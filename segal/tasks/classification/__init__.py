"""Image classification: an image is one element, or one for each of several labels."""
