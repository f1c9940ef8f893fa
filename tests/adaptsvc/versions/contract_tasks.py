"""What every place for requests of classes must do. Knows nothing of which it tests.

A test module subclasses `TasksContract` and gives it two fixtures: `open_tasks`, one more process's view, and
`open_fenced`, which is a worker's view and whether that worker holds the lease.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from adaptsvc.errors import LeaseLostError
from adaptsvc.types import Task
from adaptsvc.versions.tasks import Asked, TaskOutcome, Tasks

FIRST = Task(("cat", "dog"), "a photo of a {}.")
SECOND = Task(("dog", "cat"), "a photo of a {}.")
Open = Callable[[], Tasks]
OpenFenced = Callable[[bool], Tasks]


class TasksContract:
    """All of the contract."""

    def test_what_one_process_asks_for_every_other_reads(self, open_tasks: Open) -> None:
        assert open_tasks().read() == Asked()
        request = open_tasks().ask(FIRST)
        found = open_tasks().read()
        assert (found.request, found.waiting, found.stage) == (request, request, "waiting")
        assert (request.id, request.task) == (1, FIRST)

    def test_asking_again_for_what_waits_is_the_same_request(self, open_tasks: Open) -> None:
        assert open_tasks().ask(FIRST) == open_tasks().ask(FIRST)
        assert open_tasks().read().request is not None

    def test_asking_for_something_else_takes_the_place_of_what_waits(
        self, open_tasks: Open
    ) -> None:
        first, second = open_tasks().ask(FIRST), open_tasks().ask(SECOND)
        assert second.id > first.id
        found = open_tasks().read().waiting
        assert found is not None
        assert found.task == SECOND, "the order of the names counts"

    def test_an_answer_ends_the_waiting_and_the_same_may_be_asked_for_again(
        self, open_tasks: Open
    ) -> None:
        request = open_tasks().ask(FIRST)
        open_tasks().answer(outcome := TaskOutcome(request=request.id, version=4))
        found = open_tasks().read()
        assert (found.waiting, found.answer, found.stage) == (None, outcome, "done")
        assert open_tasks().ask(FIRST).id > request.id
        assert open_tasks().read().stage == "waiting"

    def test_an_answer_to_an_earlier_request_does_not_answer_the_last(
        self, open_tasks: Open
    ) -> None:
        first, second = open_tasks().ask(FIRST), open_tasks().ask(SECOND)
        open_tasks().answer(TaskOutcome(request=first.id, version=4))
        assert open_tasks().read().waiting == second

    def test_a_refusal_says_why(self, open_tasks: Open) -> None:
        request = open_tasks().ask(FIRST)
        open_tasks().answer(TaskOutcome(request=request.id, reason="too long"))
        found = open_tasks().read()
        assert found.answer is not None
        assert (found.stage, found.answer.reason) == ("refused", "too long")

    def test_what_was_configured_is_kept_beside_requests(self, open_tasks: Open) -> None:
        open_tasks().note_configured("abc")
        request = open_tasks().ask(FIRST)
        open_tasks().answer(TaskOutcome(request=request.id, version=1))
        assert open_tasks().read().configured == "abc"

    def test_a_worker_without_the_lease_answers_nothing(
        self, open_tasks: Open, open_fenced: OpenFenced
    ) -> None:
        request = open_tasks().ask(FIRST)
        without = open_fenced(False)
        with pytest.raises(LeaseLostError):
            without.answer(TaskOutcome(request=request.id, version=1))
        with pytest.raises(LeaseLostError):
            without.note_configured("abc")
        assert open_tasks().read() == Asked(request=request)
        open_fenced(True).answer(TaskOutcome(request=request.id, version=1))
        assert open_tasks().read().stage == "done"

    def test_of_many_who_ask_at_once_the_last_request_stands_whole(self, open_tasks: Open) -> None:
        tasks = [Task((f"a{n}", f"b{n}"), f"photo {n} of {{}}") for n in range(12)]
        threads = [threading.Thread(target=open_tasks().ask, args=(task,)) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        found = open_tasks().read().waiting
        assert found is not None
        assert (found.id, found.task in tasks) == (12, True)

    def test_names_of_any_script_and_ten_thousand_of_them_come_back_as_they_were(
        self, open_tasks: Open
    ) -> None:
        names = (
            '"quoted"',
            "back\\slash",
            "猫",
            "çà et là",
            "🐈",
            *(f"n{n}" for n in range(9_995)),
        )
        open_tasks().ask(task := Task(names, "ein Foto: {}"))
        found = open_tasks().read().request
        assert found is not None
        assert found.task == task
