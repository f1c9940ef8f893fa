"""Consumer groups: who is a member and who reads what. Pure; the clock comes in as `now_s`.

A group is a generation number and its members. Every change of membership raises the generation,
which is what fences a member that missed the change.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from streams.message import TopicPartition

_RENEW_FRACTION = 1 / 3


@dataclass(frozen=True, slots=True)
class Member:
    """One consumer of a group; `epoch` is the generation that its joining made."""

    name: str
    topics: tuple[str, ...]
    epoch: int
    seen_s: float
    session_timeout_s: float

    def is_alive(self, now_s: float) -> bool:
        """Whether its lease holds; one from the future means that the clock was set back."""
        return abs(now_s - self.seen_s) <= self.session_timeout_s


@dataclass(frozen=True, slots=True)
class Group:
    """The members at one generation."""

    generation: int = 0
    members: tuple[Member, ...] = ()

    def find(self, name: str) -> Member | None:
        """The member of that name, if it is one."""
        return next((member for member in self.members if member.name == name), None)


def join(group: Group, newcomer: Member) -> Group:
    """The group with the newcomer, seen now, and without the dead; an equal name is replaced."""
    generation = group.generation + 1
    others = (
        each
        for each in group.members
        if each.name != newcomer.name and each.is_alive(newcomer.seen_s)
    )
    return Group(generation, (*others, replace(newcomer, epoch=generation)))


def renew(group: Group, name: str, now_s: float) -> Group:
    """The group with `name` seen now, and without others whose leases ran out."""
    members = tuple(
        replace(each, seen_s=now_s) if each.name == name else each
        for each in group.members
        if each.name == name or each.is_alive(now_s)
    )
    lost = len(members) < len(group.members)
    return Group(group.generation + lost, members)


def leave(group: Group, name: str) -> Group:
    """The group without `name`."""
    members = tuple(each for each in group.members if each.name != name)
    return Group(group.generation + (len(members) < len(group.members)), members)


def is_due(group: Group, name: str, now_s: float) -> bool:
    """Whether `renew` should be written: the lease is a third used, or another member is dead."""
    return any(
        abs(now_s - each.seen_s) > each.session_timeout_s * _RENEW_FRACTION
        if each.name == name
        else not each.is_alive(now_s)
        for each in group.members
    )


def assign(
    group: Group, partitions: Iterable[TopicPartition]
) -> Mapping[str, frozenset[TopicPartition]]:
    """Each member's partitions: dealt in turn, in order of joining, to those who read the topic."""
    shares: dict[str, set[TopicPartition]] = {each.name: set() for each in group.members}
    members = sorted(group.members, key=lambda each: each.epoch)
    for turn, partition in enumerate(sorted(partitions)):
        readers = [each.name for each in members if partition.topic in each.topics]
        if readers:
            shares[readers[turn % len(readers)]].add(partition)
    return {name: frozenset(share) for name, share in shares.items()}
