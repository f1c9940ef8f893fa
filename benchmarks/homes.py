"""Has a home made for a benchmark, by a process of its own: this one must not load torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDED = "folded.onnx"
VERSIONS, FOLDED_TOO, WHOLE = "--versions", "--folded", "--whole"


def stage(
    home: Path, model: str, *, versions: int = 0, folded: bool = False, whole: bool = False
) -> None:
    """What `benchmarks.stage` makes of an empty folder.

    Args:
        home: the folder.
        model: ``lite``, ``vit``, ``tiny-vit`` or ``tiny-resnet``.
        versions: how many besides the zero-shot one.
        folded: whether the default export is wanted too.
        whole: whether each version is a whole model and no delta.
    """
    command = [sys.executable, "-m", "benchmarks.stage", str(home), "--model", model]
    command += [VERSIONS, str(versions), *[FOLDED_TOO] * folded, *[WHOLE] * whole]
    subprocess.run(command, check=True)
