"""What a round is made of, written down while it is at hand. It knows nothing of streams or publishing."""

from __future__ import annotations

import platform
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL
import torch

from adaptsvc.adapt.labels import LabeledSample
from adaptsvc.adapt.window import Sample
from adaptsvc.types import UInt8
from adaptsvc.versions.round_record import Machine, Member, Members, RoundRecord, pack_weights

CPU_INFO = Path("/proc/cpuinfo")


def record_images(samples: Sequence[Sample], machine: Machine) -> RoundRecord:
    """A round on images, in the order it took them."""
    weights = pack_weights([sample.weight for sample in samples])
    return RoundRecord(kind="images", members=_members(samples), weights=weights, machine=machine)


def record_labels(samples: Sequence[LabeledSample], machine: Machine) -> RoundRecord:
    """A round on labels, in the order it took them."""
    targets = tuple(sample.target for sample in samples)
    return RoundRecord(kind="labels", members=_members(samples), targets=targets, machine=machine)


def this_machine(device: str, ranks: int) -> Machine:
    """Where this process computes."""
    return Machine(
        cpu=_cpu(),
        device=device,
        threads=torch.get_num_threads(),
        ranks=ranks,
        torch=str(torch.__version__),
        numpy=np.__version__,
        pillow=PIL.__version__,
    )


def crc32_of(pixels: UInt8) -> int:
    """Of (3, H, W) uint8."""
    return zlib.crc32(pixels.tobytes())


def _members(samples: Sequence[Sample] | Sequence[LabeledSample]) -> Members:
    return Members.of([Member(*sample.source, crc32_of(sample.pixels)) for sample in samples])


def _cpu() -> str:
    """The model of the processor, as far as the system says."""
    try:
        lines = CPU_INFO.read_text(errors="replace").splitlines()
    except OSError:  # no Linux
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
