"""Ranks: processes that learn as one, each on a share of the batch; all take the same step.

It knows nothing of CLIP, files, streams or objectives. A launcher such as torchrun starts the processes.

Every rank gathers the logits and sample weights of the whole batch, where its own rows keep their gradient
and the others' are constants, and computes the loss of the whole batch:

    L(Z, w),  Z = [Z_0; …; Z_{R-1}],  Z_r = s · f(x_r; θ) · T(θ)ᵀ
    ∇_θ L = Σ_r (∂Z_r / ∂θ)ᵀ · ∂L/∂Z_r

∂L/∂Z_r is exact on rank r because it holds all of Z and w; its backward pass gives the r-th summand, and
`sum_gradients` adds them up. So any objective that sees the parameters through the logits alone gives the
gradient of a single process. Averaging the gradients of each rank's own loss would not: UEO's marginal and
the sums of weights couple all images of a batch. Reducing those terms one by one would need its own code
for each objective and would save little: 64 images of 100 classes are 26 kB of logits.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from adaptsvc.errors import RanksError

TIMEOUT_S = 300.0
IDLE_S = 7 * 24 * 3600.0  # a quiet stream may start no round for days


class Ranks:
    """One process alone: nothing is sent, every value comes back as it went in.

    Args:
        device: where its tensors live.

    Attributes:
        rank: this process, from 0.
        size: how many there are.
        device: where its tensors live.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.rank, self.size = 0, 1
        self.device = torch.device(device)

    def share(self, count: int) -> slice:
        """This rank's part of `count` items; the parts in rank order are the whole, some may be empty.

        Example:
            >>> Ranks().share(5)
            slice(0, 5, None)
        """
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def gather(self, local: Tensor) -> Tensor:
        """All ranks' rows in rank order, the gradient flowing to this rank's alone.

        Args:
            local: (n, …); n may differ between ranks and may be 0, the rest of the shape may not.

        Returns:
            (Σ n, …).
        """
        return local

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the ranks.

        Where a rank has none it counts as 0; where no rank has one there is none, as in one process: the
        optimizer skips it.
        """

    def agree(self, ok: bool) -> bool:
        """Whether every rank says ok; the same answer everywhere."""
        return ok

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank; what the others pass is ignored.

        Waits for rank 0 as long as the stream may be quiet, unlike the other operations.

        Args:
            value: tensors, numbers, strings, None, and lists, tuples and dicts of them.
        """
        return value

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that fails on all ranks if it fails on one.

        Raises:
            RanksError: it failed on another rank; where it failed, its own error is raised.
        """
        try:
            yield
        except BaseException:
            self.agree(False)
            raise
        if not self.agree(True):
            raise RanksError(
                f"rank {self.rank} of {self.size} stops here because another rank did; its log says why"
            )

    def close(self) -> None:
        """Leave the others; nothing may be called afterwards."""


SINGLE = Ranks()


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the processes this is, and where they meet.

    Attributes:
        rank: in [0, size).
        size: at least 2.
        local_rank: among those of this machine; the number of its GPU.
        address: host of rank 0.
        port: on that host.
    """

    rank: int
    size: int
    local_rank: int
    address: str
    port: int


class GroupRanks(Ranks):
    """One of several processes, over torch.distributed: NCCL between GPUs, gloo elsewhere.

    With gloo a lost peer is a RanksError; with NCCL torch's own watchdog ends the process.

    Args:
        place: which one.
        device: where its tensors live.
        timeout_s: longest wait for another rank, above 0.
        idle_s: longest wait in `broadcast`, above 0.

    Raises:
        RanksError: not all of them came in time.
    """

    def __init__(
        self, place: Place, device: torch.device, *, timeout_s: float, idle_s: float
    ) -> None:
        super().__init__(device)
        self.rank, self.size = place.rank, place.size
        self._timeout_s = timeout_s
        self._lost = False
        on_gpu = device.type == "cuda"
        with self._peers(f"meeting at {place.address}:{place.port}"):
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                init_method=f"tcp://{place.address}:{place.port}",
                rank=place.rank,
                world_size=place.size,
                timeout=timedelta(seconds=timeout_s),
                device_id=device if on_gpu else None,
            )
            waiting = dist.new_group(backend="gloo", timeout=timedelta(seconds=idle_s))
        self._waiting = cast(dist.ProcessGroup, waiting)  # every rank is a member

    def gather(self, local: Tensor) -> Tensor:
        counts = torch.zeros(self.size, dtype=torch.long, device=local.device)
        counts[self.rank] = len(local)
        with self._peers("gathering"):
            dist.all_reduce(counts)
        padded = local.new_zeros((int(counts.max()), *local.shape[1:]))
        padded[: len(local)] = local.detach()
        everyone = [torch.empty_like(padded) for _ in range(self.size)]
        with self._peers("gathering"):
            dist.all_gather(everyone, padded)
        rows = [part[:count] for part, count in zip(everyone, counts.tolist(), strict=True)]
        rows[self.rank] = local
        return torch.cat(rows)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        trained = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        holders = flat.new_tensor([p.grad is not None for p in trained])
        summed = torch.cat([flat, holders])
        with self._peers("summing gradients"):
            dist.all_reduce(summed)
        *parts, holders = summed.split([*(p.numel() for p in trained), len(trained)])
        for p, part, held in zip(trained, parts, holders.tolist(), strict=True):
            p.grad = part.view_as(p).to(p.dtype) if held else None

    def agree(self, ok: bool) -> bool:
        flag = torch.tensor(int(ok), device=self.device)
        with self._peers("agreeing"):
            dist.all_reduce(flag, dist.ReduceOp.MIN)
        return bool(flag)

    def broadcast(self, value: Any) -> Any:
        data = _packed(value) if self.rank == 0 else torch.empty(0, dtype=torch.uint8)
        size = torch.tensor(len(data))
        with self._peers("waiting for rank 0"):
            dist.broadcast(size, 0, group=self._waiting)
            data = data if self.rank == 0 else data.new_empty(int(size))
            dist.broadcast(data, 0, group=self._waiting)
        return _unpacked(data)

    def close(self) -> None:
        dist.destroy_process_group()

    @contextmanager
    def _peers(self, doing: str) -> Iterator[None]:
        """Map what torch raises, and raise ever after: ranks out of step would mix up their answers."""
        me = f"rank {self.rank} of {self.size}"
        advice = "look for the first error in the other ranks' logs, then start all ranks again"
        if self._lost:
            raise RanksError(f"{me} has lost the others: {advice}")
        try:
            yield
        except RuntimeError as exc:
            self._lost = True
            raise RanksError(
                f"{me} lost another rank while {doing}: it ended, or was silent for longer than it may "
                f"be ({self._timeout_s:g} s in a round); {advice} ({exc})"
            ) from exc


def start_from_environment(
    environment: Mapping[str, str],
    *,
    device: str = "cpu",
    timeout_s: float = TIMEOUT_S,
    idle_s: float = IDLE_S,
) -> Ranks:
    """The ranks that a launcher such as torchrun describes; one process alone without a launcher.

    The ranks trust one another: the port must be out of reach of everybody else.

    Args:
        environment: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, and LOCAL_RANK (0 where it is absent).
        device: ``cpu``, or ``cuda``, of which each rank takes the GPU of its LOCAL_RANK.
        timeout_s: longest wait for another rank in a round, above 0.
        idle_s: longest wait for rank 0 in `Ranks.broadcast`, above 0.

    Raises:
        RanksError: a variable is missing or malformed, or not all ranks came in time.
    """
    if environment.get("WORLD_SIZE", "1") == "1":
        return Ranks(device)
    place = _place(environment)
    where = torch.device(device, place.local_rank) if device == "cuda" else torch.device(device)
    return GroupRanks(place, where, timeout_s=timeout_s, idle_s=idle_s)


def _place(environment: Mapping[str, str]) -> Place:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    found = {name: environment[name] for name in names if name in environment}
    try:
        rank, size = int(found["RANK"]), int(found["WORLD_SIZE"])
        local_rank, port = int(found.get("LOCAL_RANK", "0")), int(found["MASTER_PORT"])
        place = Place(rank, size, local_rank, found["MASTER_ADDR"], port)
        if not (0 <= rank < size and local_rank >= 0 and 0 < port < 2**16):
            raise ValueError("out of range")
    except (KeyError, ValueError) as exc:
        raise RanksError(
            f"got {found}; expected RANK in [0, WORLD_SIZE), LOCAL_RANK, MASTER_ADDR and MASTER_PORT: "
            "start the processes with torchrun, or unset WORLD_SIZE to run one alone"
        ) from exc
    return place


def _packed(value: object) -> Tensor:
    """A value as bytes (B,) that are sure to unpack."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    data = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    try:
        _unpacked(data)
    except pickle.UnpicklingError as exc:
        raise RanksError(
            f"a {type(value).__name__} that holds more than tensors, numbers, strings, None, and lists, "
            "tuples and dicts of them cannot be sent: send its parts"
        ) from exc
    return data


def _unpacked(data: Tensor) -> Any:
    """The value; nothing in the bytes is ever executed."""
    return torch.load(io.BytesIO(data.numpy().tobytes()), map_location="cpu", weights_only=True)
