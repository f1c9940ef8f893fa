"""When to stop learning for a while and when to go back, from what the rounds came to; no clock, no I/O.

It knows nothing of models, versions or why a round was refused. The state is six counts: `dataclasses.asdict`
puts it in a checkpoint, `Patience(**counts)` brings it back.

    trouble          answer
    some refusals    continue: a refused candidate costs a round and nothing else
    many in a row    freeze: skip some rounds, the stream may pass
    many freezes     reset to the last good version: the one learned from is at fault, not the stream
    and once more    reset to zero-shot: so was the last good one
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["accepted", "refused", "skipped", "worsened"]
Action: TypeAlias = Literal["continue", "freeze", "reset_to_last_good", "reset_to_zero_shot"]


@dataclass(frozen=True, slots=True)
class PatienceLimits:
    """How much is borne; every count is 1 or more.

    Attributes:
        refusals: in a row, until learning is frozen.
        cool_down_rounds: skipped by a freeze.
        freezes: until a reset instead of one more freeze.
        worsenings: found by labels in the version that serves, until a reset.
        recovery: accepted in a row, until earlier trouble is forgotten.
    """

    refusals: int = 3
    cool_down_rounds: int = 4
    freezes: int = 3
    worsenings: int = 2
    recovery: int = 5

    def __post_init__(self) -> None:
        """Refuse counts under 1."""
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"got {name} = {getattr(self, name)}; expected 1 or more")


@dataclass(frozen=True, slots=True)
class Patience:
    """What the rounds so far came to, as far as it matters.

    Attributes:
        refusals: in a row.
        cool_down: rounds still to skip.
        freezes: since the last reset or recovery.
        worsenings: the same.
        resets: since the last recovery.
        accepted: in a row.
    """

    refusals: int = 0
    cool_down: int = 0
    freezes: int = 0
    worsenings: int = 0
    resets: int = 0
    accepted: int = 0

    @property
    def frozen(self) -> bool:
        """Whether the next round is to be skipped."""
        return self.cool_down > 0


def after(outcome: Outcome, state: Patience, limits: PatienceLimits) -> tuple[Patience, Action]:
    """The state after a round, and what to do about the next one.

    Args:
        outcome: the candidate was accepted; the guard refused it, for whatever reason; the round was skipped,
            by a freeze or because the window was no good; or labels confirm that the version that serves is
            worse than the one it must beat.
        state: before the round.
        limits: how much is borne.

    Returns:
        The action is continue: learn from the version that serves; freeze: skip the next round; or a reset:
        serve that version and learn from it. Resetting to zero-shot what is zero-shot already does nothing.

    Example:
        >>> after("refused", Patience(), PatienceLimits(refusals=1, cool_down_rounds=2))[1]
        'freeze'
    """
    if outcome == "accepted":
        return _go_on(_accept(state, limits))
    if outcome == "skipped":
        return _go_on(replace(state, cool_down=max(0, state.cool_down - 1)))
    if outcome == "refused":
        return _refuse(state, limits)
    worse = replace(state, worsenings=state.worsenings + 1, accepted=0)
    return _reset(worse) if worse.worsenings >= limits.worsenings else _freeze(worse, limits)


def _go_on(state: Patience) -> tuple[Patience, Action]:
    return state, "freeze" if state.frozen else "continue"


def _accept(state: Patience, limits: PatienceLimits) -> Patience:
    in_a_row = state.accepted + 1
    if in_a_row >= limits.recovery:
        return Patience()
    return replace(state, refusals=0, accepted=in_a_row)


def _refuse(state: Patience, limits: PatienceLimits) -> tuple[Patience, Action]:
    refused = replace(state, refusals=state.refusals + 1, accepted=0)
    if refused.refusals < limits.refusals:
        return _go_on(refused)
    if refused.freezes + 1 >= limits.freezes:
        return _reset(refused)
    return _freeze(replace(refused, freezes=refused.freezes + 1), limits)


def _freeze(state: Patience, limits: PatienceLimits) -> tuple[Patience, Action]:
    return _go_on(replace(state, refusals=0, cool_down=limits.cool_down_rounds))


def _reset(state: Patience) -> tuple[Patience, Action]:
    action: Action = "reset_to_zero_shot" if state.resets else "reset_to_last_good"
    return Patience(resets=state.resets + 1), action
