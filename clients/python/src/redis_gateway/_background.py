"""What leaves by a thread of its own: callers put things down and go on; the queue is bounded, the counts are honest."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from . import _fork
from ._pauses import pauses

logger = logging.getLogger(__name__)

T = TypeVar("T")

MOST_WAITING = 10_000
"""How much may wait to be sent. At the bound what comes is dropped, and counted."""

CLOSE_TIMEOUT = 5.0  # seconds, also at the end of the process

_CUT_OFF_TIMEOUT = 2.0  # seconds, for the thread to notice


@dataclass
class Counts:
    """What became of what was put. Each thing is in one of these, but for `sent`."""

    waiting: int = 0
    """Not sent yet, or not answered yet."""
    stood: int = 0
    """It was done, said the gateway."""
    failed: int = 0
    """It was not done, and will not be."""
    unknown: int = 0
    """It may or may not have been done: the answer was lost."""
    dropped: int = 0
    """It was never sent: too much was waiting, or the end came before."""
    sent: int = 0
    """Handed to the gateway; once more when it is sent again, as is done only with what was not executed."""


class Background(ABC, Generic[T]):
    """A queue and the thread that empties it. The thread begins with the first thing put, in the process that puts it."""

    _queue: deque[T]
    _in_hand: list[T]
    _counts: Counts
    _thread: threading.Thread | None
    # Asked to end once nothing is waiting; and asked to end now.
    _closing: bool
    _cut: bool

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most = most
        # Held for moments only. The condition is waited on, so it is made late: gevent may have patched threads by then.
        self._making = threading.Lock()
        self._condition: threading.Condition | None = None
        self._forget()
        _fork.tell(self)
        _all.add(self)

    def put(self, thing: T) -> bool:
        """Takes a thing to be sent. False: too much is waiting, or all is about to end; it was dropped."""
        with self._changed:
            if self._closing or len(self._queue) >= self._most:
                self._counts.dropped += 1
                return False
            if self._thread is None and not self._begin():
                self._counts.dropped += 1
                return False
            self._queue.append(thing)
            if len(self._queue) == 1 and not self._in_hand:
                # Otherwise whoever sends is awake, or is woken by what becomes of what is in hand.
                self._changed.notify_all()
        return True

    @property
    def counts(self) -> Counts:
        """A copy of the counts of this process."""
        with self._changed:
            counts = Counts(**vars(self._counts))
            counts.waiting = len(self._queue) + len(self._in_hand)
            return counts

    def flush(self, timeout: float) -> bool:
        """Waits until nothing is waiting, at most so many seconds. Returns whether that is so."""
        with self._changed:
            return self._changed.wait_for(self._is_idle, timeout)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Flushes for so many seconds at most, and ends the thread. What is not sent by then is dropped, what is not answered
        2 s later is unknown. What is put afterwards begins anew."""
        close_all([self], timeout)

    def forked(self) -> None:
        """In the child: what waits, and the counts, are the parent's."""
        self._making = threading.Lock()
        self._condition = None
        self._forget()

    @abstractmethod
    def _work(self) -> bool:
        """Sends what is waiting; may go on with what comes. Returns false where it is better to wait before the next try."""

    @abstractmethod
    def _cut_off(self) -> None:
        """Lets `_work` return soon. Called from another thread."""

    def _take(self, most: int) -> list[T]:
        """What is next, now in hand; the caller holds the condition."""
        self._in_hand = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
        self._counts.sent += len(self._in_hand)
        return self._in_hand

    def _settle(self, *, stood: int = 0, failed: int = 0, unknown: int = 0, again: Sequence[T] = ()) -> None:
        """Says what became of what was in hand; the caller holds the condition."""
        self._counts.stood += stood
        self._counts.failed += failed
        self._counts.unknown += unknown
        if self._cut:
            self._counts.dropped += len(again)
        else:
            # First in line, as they were. They had their place, so the bound is not asked again.
            self._queue.extendleft(reversed(again))
        self._in_hand = []
        self._changed.notify_all()

    def _ask_to_end(self) -> threading.Thread | None:
        """Who shall end once nothing is waiting."""
        with self._changed:
            self._closing = self._thread is not None
            self._changed.notify_all()
            return self._thread

    def _has_ended(self, thread: threading.Thread, give_up: float) -> bool:
        """Waits until a thread has ended. Another may have begun since."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is not thread, max(0.0, give_up - time.monotonic()))

    def _cut_short(self, thread: threading.Thread) -> None:
        """Lets a thread end now."""
        with self._changed:
            if self._thread is not thread:
                # Nobody would take it back.
                return
            if self._queue:
                logger.warning("%d are dropped at the end: there was no time left to send them", len(self._queue))
            self._counts.dropped += len(self._queue)
            self._queue.clear()
            self._cut = True
            self._changed.notify_all()
        self._cut_off()

    def _begin(self) -> bool:
        """Starts the thread. False: the process ends, and Python starts no more threads."""
        thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        return True

    def _run(self) -> None:
        waits = pauses()
        while self._has_more():
            if self._works():
                waits = pauses()
                continue
            with self._changed:
                self._changed.wait_for(lambda: self._cut, next(waits))

    def _works(self) -> bool:
        """As `_work`. What nobody thought of costs what is in hand, never the thread: nobody would start another."""
        try:
            return self._work()
        except Exception:
            logger.exception("what was in hand may or may not have been done")
            with self._changed:
                self._settle(unknown=len(self._in_hand))
            return False

    def _has_more(self) -> bool:
        """Waits for something to send. False: the end was asked for, and has come."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if self._queue:
                return True
            self._thread = None
            self._closing = self._cut = False
            self._changed.notify_all()
            return False

    @property
    def _changed(self) -> threading.Condition:
        if self._condition is None:
            with self._making:
                if self._condition is None:
                    self._condition = threading.Condition()
        return self._condition

    def _forget(self) -> None:
        self._queue = deque()
        self._in_hand = []
        self._counts = Counts()
        self._thread = None
        self._closing = self._cut = False

    def _is_idle(self) -> bool:
        return not self._queue and not self._in_hand


def close_all(backgrounds: Iterable[Background[Any]], timeout: float = CLOSE_TIMEOUT) -> None:
    """Closes them side by side, so that all of them take no longer than one."""
    ending = [(background, thread) for background in backgrounds if (thread := background._ask_to_end())]
    give_up = time.monotonic() + timeout
    ending = [(background, thread) for background, thread in ending if not background._has_ended(thread, give_up)]
    for background, thread in ending:
        background._cut_short(thread)
    give_up = time.monotonic() + _CUT_OFF_TIMEOUT
    for background, thread in ending:
        background._has_ended(thread, give_up)


_all: weakref.WeakSet[Background[Any]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    close_all(list(_all))
