"""Claims about a worker whose guard refuses: what is frozen and what is skipped."""

from __future__ import annotations

from collections.abc import Callable

from adaptsvc import checkpoint as checkpoints
from adaptsvc.config import Settings
from tests.adaptsvc.worker_bench import VIT, Bench, drain, pictures, teaching

STRICT = {"agreement": 1.0, "confident_share": 1.0, "marginal_entropy_kept": 1.0}
COLLAPSE = {"objective": "entropy-minimisation", "learning_rate": 0.5, "passes": 4.0}


@VIT
def test_refusals_count_on_over_a_restart_until_learning_is_frozen(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    bench = Bench(teaching(prepared, guard={**STRICT, "cool_down_rounds": 1}, learn=COLLAPSE))
    for turn in range(5):
        bench.send(pictures(png, 16, start=16 * turn))
        drain(bench.worker)
        bench.restart()
    assert bench.observer.rounds == [*["refused"] * 3, "skipped", "refused"]
    events = bench.events()
    assert [event["action"] for event in events] == [
        *["continue"] * 2,
        "freeze",
        *["continue"] * 2,
    ]
    assert events[3]["reasons"] == ["frozen_after_refusals"]
    assert events[3]["figures"] == {}
    saved = checkpoints.load(bench.settings.checkpoint)
    assert (saved.rounds, saved.patience["refusals"], saved.patience["freezes"]) == (5, 1, 1)


@VIT
def test_a_window_of_one_class_is_skipped_with_its_reason_and_the_worker_goes_on(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    bench = Bench(teaching(prepared, guard={"window_information": 1.0}))
    bench.send({f"image-{k}": png(0) for k in range(16)})
    drain(bench.worker)
    (event,) = bench.events()
    assert (event["event"], event["reasons"]) == ("skipped", ["window_uninformative"])
    assert (bench.observer.rounds, bench.serving) == (["skipped"], 0)
    saved = checkpoints.load(bench.settings.checkpoint)
    assert (saved.rounds, saved.new_images, len(saved.window)) == (1, 0, 16)
