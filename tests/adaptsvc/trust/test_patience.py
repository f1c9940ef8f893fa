"""Patience: each answer to trouble comes when it should, and trouble is forgotten after recovery."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptsvc.trust.patience import Action, Outcome, Patience, PatienceLimits, after

LIMITS = PatienceLimits(refusals=2, cool_down_rounds=3, freezes=2, worsenings=2, recovery=2)
OUTCOMES: tuple[Outcome, ...] = ("accepted", "refused", "skipped", "worsened")
FRESH = Patience()
histories = st.lists(st.sampled_from(OUTCOMES), max_size=60)


def play(*outcomes: Outcome, state: Patience = FRESH) -> tuple[Patience, list[Action]]:
    """The state after these rounds, and each action."""
    actions = []
    for outcome in outcomes:
        state, action = after(outcome, state, LIMITS)
        actions.append(action)
    return state, actions


def test_accepted_rounds_go_on() -> None:
    state, actions = play("accepted", "accepted", "accepted")
    assert actions == ["continue"] * 3
    assert not state.frozen


def test_refusals_in_a_row_freeze_and_an_accepted_round_between_breaks_the_row() -> None:
    assert play("refused", "refused")[1] == ["continue", "freeze"]
    assert play("refused", "accepted", "refused")[1] == ["continue"] * 3


def test_a_freeze_skips_exactly_the_rounds_of_the_cool_down() -> None:
    state, actions = play("refused", "refused", "skipped", "skipped", "skipped")
    assert actions == ["continue", "freeze", "freeze", "freeze", "continue"]
    assert not state.frozen


def test_a_round_skipped_without_a_freeze_is_no_trouble() -> None:
    assert play("skipped") == (Patience(), ["continue"])


def test_refusals_after_a_freeze_reset_to_the_last_good_version_then_to_zero_shot() -> None:
    freeze: tuple[Outcome, ...] = ("refused", "refused", "skipped", "skipped", "skipped")
    state, actions = play(*freeze, "refused", "refused")
    assert actions[-1] == "reset_to_last_good"
    assert state == Patience(resets=1)
    assert play(*freeze, "refused", "refused", state=state)[1][-1] == "reset_to_zero_shot"


def test_one_worsening_freezes_and_the_next_resets_even_if_rounds_were_accepted_between() -> None:
    _, actions = play("worsened", "skipped", "skipped", "skipped", "accepted", "worsened")
    assert actions == ["freeze", "freeze", "freeze", "continue", "continue", "reset_to_last_good"]


def test_trouble_is_forgotten_after_the_recovery() -> None:
    state, _ = play("worsened", "accepted", "accepted")
    assert state == Patience()
    state, actions = play("worsened", "worsened", "accepted", "accepted", "worsened", "worsened")
    assert actions[1] == actions[-1] == "reset_to_last_good"


def test_after_a_reset_to_zero_shot_every_reset_is_to_zero_shot() -> None:
    worsened: list[Outcome] = ["worsened"] * 8
    _, actions = play(*worsened)
    resets = [action for action in actions if action != "freeze"]
    assert resets == ["reset_to_last_good", *["reset_to_zero_shot"] * 3]


@given(history=histories)
def test_a_state_survives_a_checkpoint_and_counts_never_fall_below_zero(
    history: list[Outcome],
) -> None:
    state, _ = play(*history)
    assert Patience(**json.loads(json.dumps(asdict(state)))) == state
    assert min(asdict(state).values()) >= 0


@given(history=histories)
def test_the_action_is_freeze_exactly_when_the_state_is_frozen(history: list[Outcome]) -> None:
    state, actions = play(*history)
    assert not actions or (actions[-1] == "freeze") is state.frozen


def test_a_round_that_ends_during_a_freeze_does_not_thaw_it() -> None:
    assert play("worsened", "accepted")[1] == ["freeze", "freeze"]
    assert play("worsened", "refused")[1] == ["freeze", "freeze"]


@given(accepted=st.lists(st.sampled_from(["accepted", "skipped"]), max_size=40))
def test_without_trouble_nothing_is_frozen_or_reset(accepted: list[Outcome]) -> None:
    assert set(play(*accepted)[1]) <= {"continue"}


@given(history=histories, kept=st.integers(1, 5))
def test_skipping_always_thaws(history: list[Outcome], kept: int) -> None:
    state, _ = play(*history)
    skipped: list[Outcome] = ["skipped"] * (LIMITS.cool_down_rounds + kept)
    state, actions = play(*skipped, state=state)
    assert actions[-1] == "continue"


@pytest.mark.parametrize("name", PatienceLimits.__slots__)
def test_a_limit_under_one_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"got {name} = 0; expected 1 or more"):
        PatienceLimits(**{name: 0})
