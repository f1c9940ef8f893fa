"""Who may write: one worker at a time, by a lease. It knows nothing of what is written.

A lease carries a fencing token that rises with every taking, so that a worker which slept through the end of
its lease cannot write over the next one's work: the store and the pointer ask before every write.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from adaptsvc.errors import DiskFullError, LeaseLostError, StateUnavailableError
from adaptsvc.versions.files import write_atomic

log = logging.getLogger(__name__)


class Lease(Protocol):
    """The right to write."""

    @property
    def token(self) -> int:
        """Rises with every taking, by whomever; 0 while this process does not hold the lease."""
        ...

    def acquire(self) -> bool:
        """Take the lease if it is free, prolong it if it is ours; False while somebody else holds it.

        Raises:
            StateError: it cannot be asked for.
        """
        ...

    def check(self) -> None:
        """Do nothing while, as far as this process knows, the lease is ours.

        Raises:
            LeaseLostError: it is not.
        """
        ...

    def release(self) -> None:
        """Give it back; nothing happens when it is not ours."""
        ...


class FileLease:
    """A lock on a file, which ends with the process; its token is in a file beside it.

    Args:
        path: of the token; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = -1
        self._token = 0

    @property
    def token(self) -> int:
        """See `Lease`."""
        return self._token

    def acquire(self) -> bool:
        """See `Lease`."""
        if self._token and self._on_file() == self._token:
            return True
        self.release()  # a lock that is no longer ours protects nobody
        lock = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            token = self._on_file() + 1
            write_atomic(self._path, str(token).encode())
        except BlockingIOError:
            os.close(lock)
            return False
        except BaseException:
            os.close(lock)
            raise
        self._lock, self._token = lock, token
        return True

    def check(self) -> None:
        """See `Lease`; a lock that somebody deleted or a network drive lost shows here."""
        if not self._token or self._on_file() != self._token:
            raise lost(self._token, f"the lock at {self._path}")

    def release(self) -> None:
        """See `Lease`."""
        if self._token:
            os.close(self._lock)
            self._lock, self._token = -1, 0

    def _on_file(self) -> int:
        try:
            return int(self._path.read_bytes())
        except FileNotFoundError:
            return 0
        except ValueError:
            # Cut or altered by hand: go on above any count of takings so far.
            return int(self._path.stat().st_mtime)


def lost(token: int, where: str) -> LeaseLostError:
    """What a writer without the lease is told."""
    held = f"the lease with token {token} is no longer ours" if token else "we hold no lease"
    return LeaseLostError(
        f"{held}: {where} is another worker's or free; expected to hold it while writing: nothing was "
        "written, let one worker run, or start this one again",
        token,
    )


@contextmanager
def held(lease: Lease, stop: threading.Event, interval_s: float) -> Iterator[bool]:
    """Wait for a lease, prolong it in a thread of its own, give it back at the end.

    Args:
        lease: to hold.
        stop: ends the waiting.
        interval_s: between attempts to take it, and to prolong it; a third of its length or less.

    Yields:
        Whether the lease is held; False when told to stop before.
    """
    if not _wait(lease, stop, interval_s):
        yield False
        return
    ended = threading.Event()
    keeper = threading.Thread(
        target=_keep, args=(lease, ended, interval_s), name="keep-lease", daemon=True
    )
    keeper.start()
    try:
        yield True
    finally:
        ended.set()
        keeper.join()
        _give_back(lease)


def _wait(lease: Lease, stop: threading.Event, interval_s: float) -> bool:
    told = full = False
    while not stop.is_set():
        try:
            if lease.acquire():
                log.info("this worker writes, with token %d", lease.token)
                return True
            if not told:
                log.info("another worker holds the lease; this one waits for it")
                told = True
        except StateUnavailableError:  # whoever keeps the connection has said so
            pass
        except DiskFullError as exc:
            if not full:
                log.error("the lease cannot be taken: %s", exc)
                full = True
        stop.wait(interval_s)
    return False


def _keep(lease: Lease, ended: threading.Event, interval_s: float) -> None:
    while not ended.wait(interval_s):
        token = lease.token
        try:
            if not lease.acquire():
                log.error("the lease with token %d is another worker's now; this one ends", token)
                return
        except Exception as exc:  # whatever it is, the next attempt may do; writes are fenced
            log.debug("the lease was not prolonged: %s", exc)
            continue
        if lease.token != token:
            log.warning("the lease ran out and was taken again, with token %d", lease.token)


def _give_back(lease: Lease) -> None:
    try:
        lease.release()
    except StateUnavailableError as exc:
        log.warning("the lease was not given back, it runs out by itself: %s", exc)
