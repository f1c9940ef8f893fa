"""A learner shared by two ranks gives what it gives alone, ends rounds on both, and lets the other go.

torchrun starts this file as a script, once for all tests: rank 0 learns, rank 1 follows, and each writes
down what it saw; the tests read that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import adaptsvc
from adaptsvc.adapt.distributed import SINGLE, Ranks, start_from_environment
from adaptsvc.adapt.window import Sample
from adaptsvc.clip.load import load
from adaptsvc.clip.prompt import Prompt
from adaptsvc.learner import Candidate, Learner
from adaptsvc.sections import LearnSettings
from adaptsvc.serving.encoder import Runtime, build
from adaptsvc.versions.store import VersionStore

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]
CLASSES = ("cat", "dog", "car")
SETTINGS = LearnSettings(
    batch_images=9, passes=2.0, learning_rate=0.01, context_learning_rate=0.01, threads=1
)
TOLERANCE = 1e-5
TIMEOUT_S = 60.0
LAUNCH_S = 120.0
Seen = dict[str, Any]


class StopHere(Exception):  # noqa: N818 - a signal, as the worker's is
    """What a worker that is told to stop raises between two steps."""


def learner_of(home: Path, model: Path, ranks: Ranks) -> Learner:
    clip = load(f"local-dir:{model}")
    base = VersionStore(home / "store").find_base(clip.fingerprint)
    assert base is not None
    prompt = Prompt(clip, CLASSES, "a photo of a {}.")
    return Learner(clip, prompt, build(base, {}, Runtime()), ranks)


def window_of(learner: Learner) -> tuple[Sample, ...]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    answers = zip(pixels, *learner.zero_shot(pixels, 1.0), strict=True)
    return tuple(
        Sample(f"image-{k}", image, p, float(weight), ("images.unlabeled", 0, k))
        for k, (image, p, weight) in enumerate(answers)
    )


def nothing() -> None:
    """Between two steps."""


def content(candidate: Candidate) -> Seen:
    arrays = {**candidate.delta, "context": candidate.context, "head": candidate.class_embeddings}
    tensors = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
    return {"tensors": tensors, "losses": candidate.losses, "images": candidate.images}


def rounds(learner: Learner, home: Path) -> Seen:
    """One round; one that is stopped at its second step; a last one from version 0 with another seed."""
    window, zero = window_of(learner), VersionStore(home / "store").load(0)
    seen = {"first": content(learner.learn(window, SETTINGS, 3, between_steps=nothing))}
    seen["stopped"] = {"steps": stopped(learner, window)}
    learner.load(zero)
    seen["last"] = content(learner.learn(window, SETTINGS, 4, between_steps=nothing))
    return seen


def stopped(learner: Learner, window: tuple[Sample, ...]) -> int:
    """How often it was asked before it stopped."""
    calls: list[None] = []

    def stop_at_the_second() -> None:
        calls.append(None)
        if len(calls) == 2:
            raise StopHere

    with pytest.raises(StopHere):
        learner.learn(window, SETTINGS, 3, between_steps=stop_at_the_second)
    return len(calls)


def play(directory: Path, home: Path, model: Path) -> None:
    """What a rank does when torchrun starts this file."""
    torch.set_num_threads(1)
    ranks = start_from_environment(os.environ, timeout_s=TIMEOUT_S, idle_s=TIMEOUT_S)
    learner = learner_of(home, model, ranks)
    seen: Seen = {}
    if ranks.rank == 0:
        seen = rounds(learner, home)
        learner.dismiss()
    else:
        learner.follow()
        ranks.close()
    norms = learner.tower.norm_values().items()
    seen["norms"] = {name: torch.from_numpy(value) for name, value in norms}
    torch.save(seen, directory / f"rank{ranks.rank}.pt")


@pytest.fixture(scope="module")
def places(tiny_vit_directory: Path, tiny_home: Callable[[Path], Path]) -> tuple[Path, Path]:
    """A home with the base and version 0, read only; and the model."""
    return tiny_home(tiny_vit_directory), tiny_vit_directory


@pytest.fixture(scope="module")
def seen(places: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Seen]:
    """What ranks 0 and 1 saw, both having come to their end."""
    directory = tmp_path_factory.mktemp("ranks")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    child = subprocess.run(
        [sys.executable, *command, str(directory), *map(str, places)],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(adaptsvc.__file__).parents[1]),
            "PYTHONWARNINGS": "error",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=LAUNCH_S,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return [torch.load(directory / f"rank{rank}.pt") for rank in range(2)]


@pytest.fixture
def alone(places: tuple[Path, Path]) -> Seen:
    """The same rounds in this process."""
    return rounds(learner_of(*places, SINGLE), places[0])


@pytest.mark.parametrize("which", ["first", "last"])
def test_two_ranks_make_the_candidate_of_one(seen: list[Seen], alone: Seen, which: str) -> None:
    found, expected = seen[0][which], alone[which]
    for name, value in expected["tensors"].items():
        torch.testing.assert_close(found["tensors"][name], value, rtol=0, atol=TOLERANCE, msg=name)
    assert found["losses"] == pytest.approx(expected["losses"], abs=TOLERANCE)
    assert found["images"] == expected["images"] == 27


def test_a_round_moves_the_weights_by_far_more_than_the_tolerance(seen: list[Seen]) -> None:
    first, last = (seen[0][which]["tensors"] for which in ("first", "last"))
    assert max(float((first[name] - last[name]).abs().max()) for name in first) > 100 * TOLERANCE


def test_what_is_raised_between_steps_ends_the_round_on_both_and_the_next_one_works(
    seen: list[Seen],
) -> None:
    """Rank 1 came to the last round, and so was no longer in the one that was stopped."""
    assert seen[0]["stopped"] == {"steps": 2}
    for name, value in seen[0]["norms"].items():
        assert torch.equal(seen[1]["norms"][name], value), name


def test_a_dismissed_rank_has_the_weights_of_the_last_candidate(seen: list[Seen]) -> None:
    for name, value in seen[1]["norms"].items():
        assert torch.equal(seen[0]["last"]["tensors"][name], value), name


if __name__ == "__main__":
    play(*map(Path, sys.argv[1:4]))
