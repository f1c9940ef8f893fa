"""The stream the settings name, opened. It knows nothing of what is read from it or written to it."""

from __future__ import annotations

from adaptsvc.config import Settings
from streams.sqlite import SqliteLog
from streams.topics import load_topics


def open_log(settings: Settings) -> SqliteLog:
    """The embedded stream; its file is made when missing.

    Raises:
        LogUnavailableError: the file cannot be opened, or is no log.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    return SqliteLog(
        settings.stream_file, load_topics(), session_timeout_s=settings.stream.session_timeout_s
    )
