"""Pure tensor functions; nothing here imports from the rest of segal."""

from segal.functional.coverage import remaining_pixels
from segal.functional.distances import OuterProducts
from segal.functional.herding import herding_order
from segal.functional.k_center import k_center_greedy, k_center_order
from segal.functional.kmeans_plusplus import k_means_plusplus
from segal.functional.metrics import confusion_matrix, iou, mean_iou, pixel_accuracy
from segal.functional.pooling import (
    interpolation_matrix,
    interval_weights,
    pool_boxes,
    pool_grid,
)
from segal.functional.purity import pure_radius
from segal.functional.ranking import rank, top_k
from segal.functional.rle import decode_counts, decode_cropped, encode_counts, encode_placed
from segal.functional.rle_brushes import decode_brush, decode_brushes, encode_brush, encode_brushes
from segal.functional.rle_coco import decode_coco, decode_cocos, encode_coco
from segal.functional.spreading import spread_out
from segal.functional.uncertainty import bvsb, entropy, least_confidence, margin

__all__ = [
    "OuterProducts",
    "bvsb",
    "confusion_matrix",
    "decode_brush",
    "decode_brushes",
    "decode_coco",
    "decode_cocos",
    "decode_counts",
    "decode_cropped",
    "encode_brush",
    "encode_brushes",
    "encode_coco",
    "encode_counts",
    "encode_placed",
    "entropy",
    "herding_order",
    "interpolation_matrix",
    "interval_weights",
    "iou",
    "k_center_greedy",
    "k_center_order",
    "k_means_plusplus",
    "least_confidence",
    "margin",
    "mean_iou",
    "pixel_accuracy",
    "pool_boxes",
    "pool_grid",
    "pure_radius",
    "rank",
    "remaining_pixels",
    "spread_out",
    "top_k",
]
