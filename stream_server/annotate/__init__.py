"""Frames with boxes, labels and banners drawn on them."""

from stream_server.annotate.overlay import banner, caption, draw

__all__ = ["banner", "caption", "draw"]
