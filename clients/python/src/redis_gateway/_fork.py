"""What a child forgets when its process is forked."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    def forked(self) -> None:
        """In the child: lets go of what is the parent's. Locks may be held by threads that are not here."""


_known: weakref.WeakSet[Forked] = weakref.WeakSet()


def tell(thing: Forked) -> None:
    """Calls `thing.forked()` in each child, for as long as `thing` is in use."""
    _known.add(thing)


def _tell_all() -> None:
    for thing in list(_known):
        thing.forked()


os.register_at_fork(after_in_child=_tell_all)
