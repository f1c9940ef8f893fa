"""The room that metric files get before anything is written to them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from adaptsvc.metric_files import FILE_BYTES, FILES, reserve_room

ROOT = Path(__file__).parents[2]


def test_the_room_for_metrics_is_taken_before_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "counter_7.db").write_bytes(b"kept")
    reserve_room(tmp_path, 7)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == sorted(f"{kind}_7.db" for kind in FILES)
    assert all(file.stat().st_blocks * 512 >= FILE_BYTES for file in files)
    assert (tmp_path / "counter_7.db").read_bytes()[:5] == b"kept\0"


WRITE = """
import os
from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest, multiprocess
from adaptsvc.prometheus import PrometheusObserver
PrometheusObserver(REGISTRY).swap_failed("altered")
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode(), os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
"""


def test_metrics_are_written_to_the_files_that_were_reserved(tmp_path: Path) -> None:
    """Those that prometheus_client would make: their names and their length are its own."""
    command = (
        "import os; from pathlib import Path; from adaptsvc.metric_files import reserve_room\n"
    )
    command += f"reserve_room(Path({str(tmp_path)!r}), os.getpid())\n{WRITE}"
    done = subprocess.run(
        [sys.executable, "-c", command],
        cwd=ROOT,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'adaptsvc_swaps_total{outcome="altered"} 1.0' in done.stdout
    assert len(list(tmp_path.iterdir())) == len(FILES)
