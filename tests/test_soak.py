"""Claims about everything at once for a while: the benchmark's own soak, on a tiny tower.

`ADAPTSVC_SOAK_MINUTES` says how long; whatever it says, it goes on until rounds have brought versions that
answered, which takes as long as the machine is busy.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.homes import stage
from benchmarks.pictures import photo
from benchmarks.soak import Course, running, seen, watch

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(3600)]
MINUTES = float(os.environ.get("ADAPTSVC_SOAK_MINUTES", "1"))
SMALL = {
    "learn.round_images": "32",
    "learn.window_images": "32",
    "learn.batch_images": "8",
    "learn.threads": "1",
    "learn.niceness": "0",  # or clients without a pause starve it on a busy machine
    "learn.give_way_s": "0",
    "guard.class_kept": "0",
    "serve.deadline_s": "120",  # a busy machine is slow, which is no failure
}
CLASSES = [f"thing {number}" for number in range(100)]  # those of the staged home
PICTURES, SIDE, CLIENTS, BACK_EVERY_S = 64, 64, 2, 20.0
ROUNDS, LONGEST_S = 3, 1800.0
GROWTH, GROWTH_MIB = 1.2, 48.0  # a version that is made ready stands beside the one that serves


def test_nothing_fails_while_rounds_and_people_change_the_version_and_memory_stays(
    tmp_path: Path,
) -> None:
    stage(tmp_path, "tiny-vit")
    images = [photo(seed, SIDE, SIDE) for seed in range(PICTURES)]
    model = {"model": f"local-dir:{tmp_path / 'model'}", "classes": json.dumps(CLASSES)}
    with running(tmp_path, images, CLIENTS, {**SMALL, **model}) as system:

        def enough() -> bool:
            found = seen(system)
            learned = min(found.promoted, len(found.versions - {0})) >= ROUNDS
            return learned or system.client.now_s() > LONGEST_S

        notes = watch(system, Course(60 * MINUTES, BACK_EVERY_S, enough))
        found = seen(system)
        assert system.service.running
        assert system.worker.running
    assert found.failed == 0, {each.why for each in system.client.answers} - {""}
    assert found.promoted >= ROUNDS
    assert len(found.versions - {0}) >= ROUNDS
    assert notes.back > 0
    assert 0 in found.versions
    assert found.trouble == {"service": 0, "worker": 0}
    memory = notes.memory_mib["service"]
    warm = max(memory[: len(memory) // 2])
    assert memory[-1] <= GROWTH * warm + GROWTH_MIB
