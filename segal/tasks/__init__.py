"""What a network is asked: segmentation."""
