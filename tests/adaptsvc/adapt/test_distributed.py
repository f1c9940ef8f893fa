"""Ranks: two processes give what one gives, fail together, and never wait for a peer that is gone.

torchrun starts this file as a script, once for all tests: each rank plays every scene and writes down what
it saw; the tests read that.
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adaptsvc
from adaptsvc.adapt.adapter import (
    Adapter,
    DualEncoder,
    StepSettings,
    norm_parameters,
    trainable_only,
    unit,
)
from adaptsvc.adapt.distributed import Ranks, start_from_environment
from adaptsvc.adapt.objective import OBJECTIVES
from adaptsvc.errors import AdaptsvcError, NonFiniteStepError, RanksError

SETTINGS = StepSettings(
    learning_rate=0.05, context_learning_rate=0.05, momentum=0.9, total_steps=1000
)
STEPS = 3
COUNTS = {"even": 64, "uneven": 33, "one": 1}  # of one image, rank 0 gets none
TOLERANCE = 1e-5
TIMEOUT_S = 60.0
LAUNCH_S = 180.0
Seen = dict[str, Any]


class Toy:
    """A tower of convolution, BatchNorm and linear layer, whose statistics are not those of its input."""

    def __init__(self, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            norm = nn.BatchNorm2d(4)
            self.tower = nn.Sequential(
                nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(16, 8)
            ).to(device)
            norm.running_mean, norm.running_var = 0.3 * torch.randn(4), 0.5 + torch.rand(4)
            self.tower.to(device)
            self.classes = torch.randn(5, 8).to(device)
            self.context = nn.Parameter((0.1 * torch.randn(8)).to(device))
            self.images = torch.randn(64, 3, 4, 4).to(device)
            self.weights = (0.2 + 0.8 * torch.rand(64)).to(device)
        self.norms = norm_parameters(self.tower)
        trainable_only(self.tower, [*self.norms.values(), self.context])

    def adapter(self, ranks: Ranks, objective: str) -> Adapter:
        model = DualEncoder(
            encode=lambda images: unit(self.tower(images)),
            class_embeddings=lambda: unit(self.classes + self.context),
            logit_scale=10.0,
            norms=self.norms,
            context={"context": self.context},
        )
        return Adapter(model, OBJECTIVES[objective], SETTINGS, ranks)


def learn(ranks: Ranks, objective: str = "ueo", count: int = 64) -> Seen:
    """A few steps on batches of `count` images; the weights and reports on the CPU."""
    toy = Toy(ranks.device)
    adapter, chance = toy.adapter(ranks, objective), torch.Generator().manual_seed(1)
    reports = []
    for _ in range(STEPS):
        mine = torch.randperm(64, generator=chance)[:count][ranks.share(count)].to(ranks.device)
        reports.append(adapter.step(toy.images[mine], toy.weights[mine]))
    return {"weights": on_cpu(adapter.stepper.snapshot()), "reports": reports}


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def failure(action: Callable[[], object]) -> tuple[str, str]:
    """What it raises, by name, and what it says; both empty if it does not."""
    try:
        action()
    except (AdaptsvcError, ZeroDivisionError) as exc:
        return type(exc).__name__, str(exc)
    return "", ""


# Scenes: every rank plays each of them.


def spoilt_on_rank_1(ranks: Ranks) -> Seen:
    toy = Toy(ranks.device)
    adapter, mine = toy.adapter(ranks, "ueo"), ranks.share(64)
    images = toy.images[mine].clone()
    if ranks.rank == 1:
        images[3, 0, 0, 0] = math.nan
    before = adapter.stepper.snapshot()
    error, _ = failure(lambda: adapter.step(images, toy.weights[mine]))
    restored = {name: value.clone() for name, value in adapter.stepper.snapshot().items()}
    adapter.step(toy.images[mine], toy.weights[mine])
    return {
        "error": error,
        "before": before,
        "restored": restored,
        "after": adapter.stepper.snapshot(),
    }


def gathered(ranks: Ranks) -> Seen:
    local = torch.full((2 + ranks.rank, 3), float(ranks.rank), requires_grad=True)
    whole = ranks.gather(local)
    (whole * torch.arange(15.0).view(5, 3)).sum().backward()
    nothing = ranks.gather(torch.zeros(0, 3))
    return {"whole": whole.detach(), "gradient": local.grad, "nothing": nothing}


def summed(ranks: Ranks) -> Seen:
    """The first has a gradient everywhere, the second on rank 1 alone, the third nowhere."""
    both, one, none = parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    both.grad = torch.tensor([1.0, 10.0]) + ranks.rank
    if ranks.rank == 1:
        one.grad = torch.tensor([5.0, 6.0])
    ranks.sum_gradients(parameters)
    return {"both": both.grad, "one": one.grad, "none": none.grad}


def broadcasts(ranks: Ranks) -> Seen:
    sent = {
        "pixels": torch.arange(6, dtype=torch.uint8).view(2, 3),
        "seed": 7,
        "names": ["a", None],
    }
    job = ranks.broadcast(sent if ranks.rank == 0 else None)
    refused = failure(lambda: ranks.broadcast(Path())) if ranks.rank == 0 else ("", "")
    return {"job": job, "refused": refused, "next": ranks.broadcast(ranks.rank)}


def divided(ranks: Ranks) -> Seen:
    """Rank 1 divides by zero."""

    def divide() -> None:
        with ranks.together():
            1 / (1 - ranks.rank)

    return {"failure": failure(divide), "agreed": [ranks.agree(True), ranks.agree(ranks.rank == 0)]}


def bereft(ranks: Ranks) -> Seen:
    """Rank 1 ends without a word."""
    if ranks.rank == 1:
        return {}
    started = time.monotonic()
    first = failure(lambda: ranks.gather(torch.zeros(1, 2)))
    second = failure(lambda: ranks.agree(True))
    return {"first": first, "second": second, "seconds": time.monotonic() - started}


def play(directory: Path, device: str) -> None:
    """What a rank does when torchrun starts this file."""
    torch.backends.cudnn.allow_tf32 = (
        False  # with it, a GPU's convolutions depend on the batch size
    )
    ranks = start_from_environment(os.environ, device=device, timeout_s=TIMEOUT_S, idle_s=TIMEOUT_S)
    seen: Seen = {name: learn(ranks, name) for name in OBJECTIVES}
    if device == "cpu":
        seen |= {name: learn(ranks, count=count) for name, count in COUNTS.items()}
        scenes = (spoilt_on_rank_1, gathered, summed, broadcasts, divided, bereft)
        seen |= {scene.__name__: scene(ranks) for scene in scenes}
    torch.save(seen, directory / f"rank{ranks.rank}.pt")
    if device == "cpu":
        os._exit(0)  # rank 1 as if killed: no goodbye
    ranks.close()


def launch(directory: Path, device: str) -> list[Seen]:
    """Two ranks, to their end; what each saw."""
    root = str(Path(adaptsvc.__file__).parents[1])
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    child = subprocess.run(
        [sys.executable, *command, str(directory), device],
        env={**os.environ, "PYTHONPATH": root, "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LAUNCH_S,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return [torch.load(directory / f"rank{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[Seen]:
    """What ranks 0 and 1 saw."""
    return launch(tmp_path_factory.mktemp("ranks"), "cpu")


def assert_same_as_alone(seen: list[Seen], name: str, alone: Seen) -> None:
    for rank in seen:
        for parameter, value in alone["weights"].items():
            torch.testing.assert_close(
                rank[name]["weights"][parameter], value, rtol=0, atol=TOLERANCE
            )
        for report, expected in zip(rank[name]["reports"], alone["reports"], strict=True):
            assert report == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.integration
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_ranks_of_32_images_step_as_one_of_64(seen: list[Seen], name: str) -> None:
    assert_same_as_alone(seen, name, learn(Ranks(), name))


@pytest.mark.integration
@pytest.mark.parametrize("name", COUNTS)
def test_any_number_of_images_can_be_shared(seen: list[Seen], name: str) -> None:
    assert_same_as_alone(seen, name, learn(Ranks(), count=COUNTS[name]))


@pytest.mark.integration
@pytest.mark.parametrize("name", [*OBJECTIVES, *COUNTS])
def test_weights_are_the_same_on_both_ranks_bit_for_bit(seen: list[Seen], name: str) -> None:
    first, second = (rank[name] for rank in seen)
    assert first["reports"] == second["reports"]
    assert all(torch.equal(value, second["weights"][k]) for k, value in first["weights"].items())


def test_steps_move_the_weights_by_far_more_than_the_tolerance() -> None:
    toy, after = Toy(torch.device("cpu")), learn(Ranks())["weights"]
    before = {**toy.norms, "context": toy.context}
    assert all((after[k] - v.detach()).abs().max() > 500 * TOLERANCE for k, v in before.items())


@pytest.mark.integration
def test_nan_on_one_rank_is_refused_on_both_and_the_next_step_is_the_same_on_both(
    seen: list[Seen],
) -> None:
    scenes = [rank["spoilt_on_rank_1"] for rank in seen]
    for scene in scenes:
        assert scene["error"] == NonFiniteStepError.__name__
        assert all(torch.equal(scene["restored"][k], v) for k, v in scene["before"].items())
        assert all(torch.equal(scene["after"][k], v) for k, v in scenes[0]["after"].items())
        assert not any(torch.equal(scene["after"][k], v) for k, v in scene["before"].items())


@pytest.mark.integration
def test_gather_puts_rows_in_rank_order_and_sends_gradients_to_the_ranks_own(
    seen: list[Seen],
) -> None:
    coefficients = torch.arange(15.0).view(5, 3)
    for rank, own in zip(seen, (slice(0, 2), slice(2, 5)), strict=True):
        assert rank["gathered"]["whole"][:, 0].tolist() == [0, 0, 1, 1, 1]
        assert torch.equal(rank["gathered"]["gradient"], coefficients[own])
        assert rank["gathered"]["nothing"].shape == (0, 3)


@pytest.mark.integration
def test_gradients_are_summed_and_one_that_only_a_rank_misses_counts_as_zero(
    seen: list[Seen],
) -> None:
    for rank in seen:
        assert rank["summed"]["both"].tolist() == [3.0, 21.0]
        assert rank["summed"]["one"].tolist() == [5.0, 6.0]
        assert rank["summed"]["none"] is None


@pytest.mark.integration
def test_every_rank_gets_what_rank_0_broadcasts(seen: list[Seen]) -> None:
    for rank in seen:
        job = rank["broadcasts"]["job"]
        assert torch.equal(job.pop("pixels"), torch.arange(6, dtype=torch.uint8).view(2, 3))
        assert job == {"seed": 7, "names": ["a", None]}


@pytest.mark.integration
def test_what_needs_code_to_unpack_is_refused_before_it_is_sent(seen: list[Seen]) -> None:
    error, message = seen[0]["broadcasts"]["refused"]
    assert error == RanksError.__name__
    assert "PosixPath that holds more than tensors" in message
    assert [rank["broadcasts"]["next"] for rank in seen] == [0, 0]


@pytest.mark.integration
def test_what_fails_on_one_rank_fails_on_both(seen: list[Seen]) -> None:
    errors = [rank["divided"]["failure"][0] for rank in seen]
    assert errors == [RanksError.__name__, ZeroDivisionError.__name__]
    assert "stops here because another rank did" in seen[0]["divided"]["failure"][1]


@pytest.mark.integration
def test_ranks_agree_only_if_all_say_so(seen: list[Seen]) -> None:
    assert [rank["divided"]["agreed"] for rank in seen] == [[True, False], [True, False]]


@pytest.mark.integration
def test_a_dead_peer_is_a_clear_error_at_once_and_for_good(seen: list[Seen]) -> None:
    error, message = seen[0]["bereft"]["first"]
    assert error == RanksError.__name__
    assert "rank 0 of 2 lost another rank while gathering" in message
    assert "start all ranks again" in message
    assert seen[0]["bereft"]["second"][0] == RanksError.__name__
    assert seen[0]["bereft"]["seconds"] < TIMEOUT_S / 2


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_gpus_step_as_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert_same_as_alone(launch(tmp_path, "cuda"), name, learn(Ranks("cuda"), name))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 33, 64])
def test_shares_are_contiguous_and_cover_the_batch_and_differ_by_one_at_most(
    size: int, count: int
) -> None:
    ranks, shares = Ranks(), []
    for rank in range(size):
        ranks.rank, ranks.size = rank, size
        shares.append(list(range(count))[ranks.share(count)])
    assert list(chain(*shares)) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1", "RANK": "0"}], ids=["none", "one"])
def test_without_peers_there_is_one_rank_that_sends_nothing(environment: dict[str, str]) -> None:
    ranks = start_from_environment(environment)
    local, parameter = torch.zeros(2, 3), nn.Parameter(torch.zeros(1))
    assert (ranks.rank, ranks.size, ranks.device.type) == (0, 1, "cpu")
    assert ranks.gather(local) is local
    ranks.sum_gradients([parameter])
    assert parameter.grad is None
    assert [ranks.agree(True), ranks.agree(False)] == [True, False]
    assert ranks.broadcast(ranks) is ranks
    ranks.close()


def test_alone_a_block_run_together_raises_its_own_error() -> None:
    ranks = Ranks()
    with pytest.raises(ZeroDivisionError), ranks.together():
        raise ZeroDivisionError
    with ranks.together():
        pass


GOOD = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "spoilt",
    [
        {"RANK": "2"},
        {"RANK": "-1"},
        {"WORLD_SIZE": "two"},
        {"WORLD_SIZE": "0"},
        {"MASTER_PORT": "0"},
        {"LOCAL_RANK": "-1"},
    ],
    ids=str,
)
def test_an_environment_that_makes_no_sense_is_refused(spoilt: dict[str, str]) -> None:
    with pytest.raises(RanksError, match="start the processes with torchrun"):
        start_from_environment({**GOOD, **spoilt})


@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_an_incomplete_environment_is_refused(missing: str) -> None:
    environment = {name: value for name, value in GOOD.items() if name != missing}
    with pytest.raises(RanksError, match="expected RANK in"):
        start_from_environment(environment)


def test_a_rank_that_finds_nobody_says_so_and_does_not_hang() -> None:
    with socket.socket() as unheard:  # bound, so that nobody else listens there
        unheard.bind(("127.0.0.1", 0))
        port = str(unheard.getsockname()[1])
        environment = {**GOOD, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        with pytest.raises(RanksError, match=f"while meeting at 127.0.0.1:{port}"):
            start_from_environment(environment, timeout_s=0.5)


if __name__ == "__main__":
    play(Path(sys.argv[1]), sys.argv[2])
