"""The end of a service process: readiness goes first, then connections, then the process.

It knows nothing of what is being served. BentoML hands SIGTERM to each service process, where uvicorn would
at once close its idle connections, some of which are about to bring a request. So the first SIGTERM only says
that the process is leaving: /readyz answers 503 and every answer closes its connection. What uvicorn does on
a SIGTERM, finish what is under way and end, it does some time later, or at the second SIGTERM.
"""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)


class Leaving:
    """Whether this process is leaving.

    Args:
        notice_s: from the first SIGTERM to what was installed for it before.
    """

    def __init__(self, notice_s: float) -> None:
        self._notice_s = notice_s
        self._begun = threading.Event()

    def __call__(self) -> bool:
        """Whether it is."""
        return self._begun.is_set()

    def listen(self) -> None:
        """Take SIGTERM; elsewhere than in the main thread nobody can, and nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            return
        before: Any = signal.getsignal(signal.SIGTERM)
        if not callable(
            before
        ):  # no server's handler, so nothing is drained and nothing is to be delayed
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self._begun.is_set():
                before(number, frame)
                return
            self._begun.set()
            timer = threading.Timer(self._notice_s, before, (number, None))
            timer.daemon = True
            timer.start()

        signal.signal(signal.SIGTERM, handle)
