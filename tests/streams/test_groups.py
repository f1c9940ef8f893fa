"""Groups: leases, generations, and the division of partitions."""

from hypothesis import given
from hypothesis import strategies as st

from streams.groups import Group, Member, assign, is_due, join, leave, renew
from streams.message import TopicPartition


def _member(name: str, *, now_s: float = 0.0, topics: tuple[str, ...] = ("t",)) -> Member:
    return Member(name, topics, 0, now_s, session_timeout_s=10.0)


def _group(*names: str) -> Group:
    group = Group()
    for name in names:
        group = join(group, _member(name))
    return group


@given(members=st.integers(1, 8), partitions=st.integers(1, 30))
def test_every_partition_has_one_reader_and_shares_differ_by_one_at_most(
    members: int, partitions: int
) -> None:
    every = [TopicPartition("t", number) for number in range(partitions)]
    shares = assign(_group(*map(str, range(members))), every)
    dealt = [each for share in shares.values() for each in share]
    assert sorted(dealt) == every
    sizes = [len(share) for share in shares.values()]
    assert max(sizes) - min(sizes) <= 1


def test_a_topic_nobody_reads_is_dealt_to_nobody() -> None:
    assert assign(_group("a"), [TopicPartition("other", 0)]) == {"a": frozenset()}


def test_each_change_of_membership_makes_a_generation() -> None:
    group = _group("a", "b")
    assert group.generation == 2
    assert leave(group, "a").generation == 3
    assert leave(group, "nobody") == group
    assert renew(group, "a", 5.0).generation == 2
    assert renew(group, "a", 11.0) == Group(3, (Member("a", ("t",), 1, 11.0, 10.0),))


def test_joining_under_a_name_in_use_replaces_its_holder() -> None:
    group = _group("a", "a")
    assert [(each.name, each.epoch) for each in group.members] == [("a", 2)]


def test_joining_drops_the_dead() -> None:
    group = join(_group("a"), _member("b", now_s=11.0))
    assert [each.name for each in group.members] == ["b"]


def test_a_lease_is_due_after_a_third_or_when_another_member_is_dead() -> None:
    group = join(_group("a"), _member("b", now_s=5.0))
    assert not is_due(group, "b", 6.0)
    assert is_due(group, "b", 8.5)
    assert is_due(group, "b", 10.5)
