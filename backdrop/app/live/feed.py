"""A thread that reads a live source, and what becomes of the frames for which the networks have no time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from itertools import islice

from backdrop.app.reader import Frame
from backdrop.errors import BackdropError
from backdrop.run.threads import in_threads
from backdrop.video.live import Live, LiveFrame

HEARTBEAT_S = 0.2
"""How long a wait may last before it is looked whether somebody stopped it."""


class Feed:
    """The frames of a live source in batches, read by a thread.

    A source that waits (a pipe) is read no further than a few batches ahead, and each of its frames is given. Of any
    other only the newest frame is kept: it takes the place of one that nobody has taken yet, which is dropped. So masks
    are never later than the networks need for two frames, however long it runs.

    Args:
        live: open.
        every: frames 0, every, 2 every, ... are given; the others count nowhere.
        batch: frames that may be given together.

    Attributes:
        dropped: frames that were not given, as others came.
        fault: why the source broke off; None: it did not, or not yet.
    """

    def __init__(self, live: Live, every: int, batch: int) -> None:
        self._live, self._every, self._batch = live, every, batch
        self._waiting: deque[LiveFrame] = deque()
        self._changed = threading.Condition()
        self._over = self._stopped = False
        self.dropped = 0
        self.fault: BackdropError | None = None
        self._failure: BaseException | None = None  # a fault of ours
        # a read that never returns must not keep the program from ending
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Give no more frames than the batch that is in work. May be called by a signal's handler."""
        self._stopped = True

    def close(self) -> None:
        """Let go of the source, if it lets."""
        self._stopped = True
        self._thread.join(5 * HEARTBEAT_S)

    def batches(self) -> Iterator[list[Frame]]:
        """One frame or several, as many as wait, in their order."""
        while together := self._next():
            images = in_threads(lambda one: one.picture(), together)  # colors are converted of given frames alone
            yield [Frame(one.number, one.time, image) for one, image in zip(together, images, strict=True)]
        if self._failure is not None:
            raise self._failure

    def _next(self) -> list[LiveFrame]:
        with self._changed:
            while not (self._waiting or self._over or self._stopped):
                self._changed.wait(HEARTBEAT_S)
            if self._stopped:
                return []
            together = list(islice(self._waiting, self._batch))
            for _ in together:
                self._waiting.popleft()
            self._changed.notify_all()
            return together

    def _read(self) -> None:
        frames = self._live.frames()
        try:
            for frame in frames:
                if self._stopped:
                    break
                if frame.number % self._every == 0:
                    self._offer(frame)
        except BackdropError as fault:
            self.fault = fault
        except BaseException as failure:
            self._failure = failure
        finally:
            frames.close()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _offer(self, frame: LiveFrame) -> None:
        with self._changed:
            if self._live.waits:
                while len(self._waiting) >= 2 * self._batch and not self._stopped:
                    self._changed.wait(HEARTBEAT_S)
            else:
                self.dropped += len(self._waiting)
                self._waiting.clear()
            self._waiting.append(frame)
            self._changed.notify_all()
