"""What a log that outlives its process promises besides. Knows nothing of which log it tests.

A test module subclasses `DurableContract` and gives it the fixture `bench`.
"""

import pytest

from streams import LogUnavailableError, NewMessage
from tests.streams.bench import EVENTS, DurableBench, collect, commit_all, numbered, values
from tests.streams.contract import LogContract


class DurableContract(LogContract):
    """What a log that outlives its process promises besides."""

    def test_what_is_past_its_retention_is_gone_and_the_rest_keeps_its_offsets(
        self, bench: DurableBench
    ) -> None:
        bench.log.append("events", numbered(5))
        bench.expire()
        bench.log.append("events", numbered(3, first=5))
        kept = bench.log.read(EVENTS, offset=0, limit=100)
        assert [(each.offset, int(each.value)) for each in kept] == [(5, 5), (6, 6), (7, 7)]
        assert bench.log.read(EVENTS, offset=2, limit=3) == ()

    def test_a_group_goes_on_behind_what_retention_took(self, bench: DurableBench) -> None:
        bench.log.append("events", numbered(10))
        first = bench.log.consumer("g", ["events"])
        bench.drain(first)
        first.commit({EVENTS: 4})
        first.close()
        bench.expire()
        bench.log.append("events", numbered(2, first=10))
        consumer = bench.log.consumer("g", ["events"])
        assert consumer.lag() == 2
        assert values(bench.drain(consumer)) == [10, 11]
        consumer.seek({EVENTS: 0})
        assert values(bench.drain(consumer)) == [10, 11]

    def test_an_outage_is_said_and_what_was_acknowledged_outlasts_it(
        self, bench: DurableBench
    ) -> None:
        bench.log.append("events", numbered(10))
        consumer = bench.log.consumer("g", ["events"])
        consumer.poll(max_messages=3, max_bytes=1000, timeout_s=bench.patience_s)
        with bench.outage():
            with pytest.raises(LogUnavailableError):
                bench.log.append("events", [NewMessage("outage", b"-1")])
            with pytest.raises(LogUnavailableError):
                bench.log.consumer("h", ["events"])
        bench.log.append("events", numbered(5, first=10))
        received = collect(consumer, 12)
        assert {*range(3, 15)} <= received <= {-1, *range(15)}
        bench.settle()
        bench.drain(consumer)  # a group that the outage dissolved is joined again
        commit_all(consumer)
        everything = values(bench.log.read(EVENTS, offset=0, limit=100))
        assert [each for each in everything if each >= 0] == [*range(15)]
