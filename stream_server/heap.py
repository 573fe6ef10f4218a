"""The C library's heap, under everything that Python does not count."""

from __future__ import annotations

import ctypes

M_ARENA_MAX = -8
ARENAS = 2


def share_arenas() -> None:
    """Let all threads share two of glibc's heaps; before they start. Elsewhere, do nothing.

    glibc gives each thread a heap of its own, up to eight a core, and each keeps what its busiest
    moment took: with pictures of megabytes in every decoder, encoder and worker, memory grew for
    half an hour while viewers came and went (docs/operations.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS)
