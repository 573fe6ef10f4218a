"""What can go wrong with a measurement, besides bugs."""

from __future__ import annotations

from stream_server.errors import MaskstreamError


class MeasureError(MaskstreamError):
    """A figure cannot be had here and now; the message says what is missing or did not come."""
