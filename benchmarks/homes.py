"""Has a home made for a benchmark, by a process of its own: this one must not load torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDED = "folded.onnx"
VERSIONS, FOLDED_TOO = "--versions", "--folded"


def stage(home: Path, model: str, *, versions: int = 0, folded: bool = False) -> None:
    """What `benchmarks.stage` makes of an empty folder.

    Args:
        home: the folder.
        model: ``lite`` or ``vit``.
        versions: how many besides the zero-shot one.
        folded: whether the default export is wanted too.
    """
    command = [sys.executable, "-m", "benchmarks.stage", str(home), "--model", model]
    command += [VERSIONS, str(versions), *([FOLDED_TOO] if folded else [])]
    subprocess.run(command, check=True)
