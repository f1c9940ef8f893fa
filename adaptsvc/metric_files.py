"""Room on disk for the files that prometheus_client maps; it knows nothing of what is counted."""

from __future__ import annotations

import os
from pathlib import Path

# What a process of the service writes: our metrics, and BentoML's (livesum).
FILES = (
    "counter",
    "histogram",
    "gauge_liveall",
    "gauge_livemax",
    "gauge_livemin",
    "gauge_livesum",
    "gauge_mostrecent",
)
FILE_BYTES = 2**20  # as long as prometheus_client makes them


def reserve_room(directory: Path, process: int) -> None:
    """Give the metric files of a process their room on disk before it writes to them.

    prometheus_client writes to mapped files with holes. Where a disk has no room for what goes into one, the
    kernel kills the process, however little a new label set is.

    Args:
        directory: where prometheus_client has them.
        process: its id.

    Raises:
        OSError: there is no room.
    """
    for kind in FILES:
        with (directory / f"{kind}_{process}.db").open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, FILE_BYTES)
