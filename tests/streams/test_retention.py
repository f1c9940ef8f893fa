"""The cut at the head of a partition."""

from streams.retention import Cut, Entry, Limits, cut_head

ENTRIES = [Entry(offset, timestamp_s=offset, size_bytes=10) for offset in range(10)]


def _cut(*, oldest_s: float = 0, size_bytes: int = 1000, unread_from: int = 10) -> Cut:
    limits = Limits(oldest_s, size_bytes, unread_from, delete_unread=False)
    return cut_head(ENTRIES, first=0, total_bytes=100, limits=limits)


def test_nothing_goes_within_the_limits() -> None:
    assert _cut() == Cut(first_kept=0)


def test_age_cuts_what_is_older() -> None:
    assert _cut(oldest_s=3) == Cut(first_kept=3, messages=3, size_bytes=30)


def test_size_cuts_until_the_rest_fits() -> None:
    assert _cut(size_bytes=55) == Cut(first_kept=5, messages=5, size_bytes=50)


def test_an_unread_message_stops_the_cut() -> None:
    assert _cut(oldest_s=9, unread_from=2) == Cut(2, messages=2, size_bytes=20, held=True)


def test_unread_messages_that_may_go_are_counted() -> None:
    limits = Limits(oldest_s=99, size_bytes=1000, unread_from=7, delete_unread=True)
    cut = cut_head(ENTRIES, first=0, total_bytes=100, limits=limits)
    assert cut == Cut(first_kept=10, messages=10, size_bytes=100, unread=3)
