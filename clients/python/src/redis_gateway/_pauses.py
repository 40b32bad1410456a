"""Waits between attempts."""

from __future__ import annotations

import random
from collections.abc import Iterator

_FIRST = 0.05  # seconds
_MOST = 1.0


def pauses() -> Iterator[float]:
    """Seconds to wait before each next attempt: doubled up to the most, each shortened at random by up to a half."""
    pause = _FIRST
    while True:
        # Apart from each other, or all clients of a gateway that was restarted come back at once.
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, _MOST)
