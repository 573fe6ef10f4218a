"""The mask classifier: network, card, registry, crop geometry and the mask painter.

`crop`, `card`, `registry` and `mask_painter` need only numpy and OpenCV; only `mobilenet_v3`
imports torch. The server and the trainer both stand on this package.
"""

LABELS: tuple[str, ...] = ("with_mask", "without_mask", "incorrect")
"""The classes, in the order of the logits."""
