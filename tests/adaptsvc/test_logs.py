"""Claims about log lines: one record is one line, whatever is in it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from adaptsvc.logs import OneLine, keep_to_one_line

FORGED = "photo.png\n2026-01-01 INFO adaptsvc: all is well\r\x1b[2J\u2028\x85\udc80"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("adaptsvc.test_logs")
    logger.addHandler(handler)
    logger.propagate = False
    keep_to_one_line()
    keep_to_one_line()
    assert len(handler.filters) == 1
    yield stream
    logger.removeHandler(handler)
    logger.propagate = True


def test_what_a_stranger_named_stays_on_its_line(written: io.StringIO) -> None:
    logging.getLogger("adaptsvc.test_logs").warning("refused %s: %r", FORGED, 1)
    (line,) = written.getvalue().splitlines()
    assert line.startswith("WARNING refused photo.png\\n2026")
    assert line.isprintable()


def test_a_traceback_keeps_its_lines_and_none_of_them_passes_for_a_record(
    written: io.StringIO,
) -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("adaptsvc.test_logs").exception("failed")
    first, *rest = written.getvalue().split("\n")[:-1]
    assert first == "ERROR failed"
    assert len(rest) > 2
    assert all(line.startswith("  | ") and line.isprintable() for line in rest)


def test_a_record_without_arguments_may_hold_percent_signs() -> None:
    record = logging.LogRecord("n", logging.INFO, "p", 1, "100 %s\n", (), None)
    OneLine().filter(record)
    assert record.getMessage() == "100 %s\\n"


def test_arguments_that_do_not_fit_are_left_to_the_handler_and_do_not_fail_whoever_logs() -> None:
    record = logging.LogRecord("n", logging.INFO, "p", 1, "%d images", ("three",), None)
    assert OneLine().filter(record)
    assert record.args == ("three",)
