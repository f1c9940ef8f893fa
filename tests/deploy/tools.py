"""Programs of others that read what we deploy. Knows nothing of what they read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROMETHEUS = "apt-get install prometheus"


def program(name: str, where: str) -> str:
    """A program beside this Python or on the path; a missing one is a failure in CI, a skip elsewhere."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if found := shutil.which(name, path=path):
        return found
    message = f"no {name}: {where}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def said(*command: str) -> str:
    """What a program prints; that it complains of nothing is asserted."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout
