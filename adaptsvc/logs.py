"""Log lines that stay one line and tell a terminal nothing, whatever a stranger put into them.

It knows nothing of what is logged. A path, a field's name or an image id may hold line breaks, escape codes
and other characters that cannot be printed; they are written as Python writes them in a string.
"""

from __future__ import annotations

import logging
import traceback

INDENT = "  | "


class OneLine(logging.Filter):
    """Writes what cannot be printed as escapes, and indents tracebacks, so that no line passes for ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record, and let it pass."""
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit: the handler says so, whoever logs goes on
            return True
        record.msg, record.args = one_line(message), ()
        if record.exc_info and record.exc_info[1] is not None:
            text = "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
            record.exc_text = "\n".join(INDENT + one_line(line) for line in text.split("\n"))
        return True


def one_line(text: str) -> str:
    r"""A text without line breaks and control codes.

    Example:
        >>> one_line("żaba\n\x1b[31m2026 INFO all is well")
        'żaba\\n\\x1b[31m2026 INFO all is well'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def keep_to_one_line() -> None:
    """Have every handler there is write records so; to be called once the handlers are set up."""
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        if not any(isinstance(each, OneLine) for each in handler.filters):
            handler.addFilter(OneLine())
