"""Claims about `.ci/audit`: it tells an audit that found nothing from one that could not be done."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[2] / ".ci" / "audit"
NOT_DONE = 3
CLEAN = "echo No known vulnerabilities found"
KNOWN = "echo requests 2.19.0 PYSEC-2018-28 2.20.0; exit 1"
FOUND = "echo pillow 1.0 CVE-2020-0001; exit 1"
SKIPPED = "echo requests Dependency not found on PyPI and could not be audited"


@pytest.mark.parametrize(
    ("of_the_known", "of_ours", "status", "said"),
    [
        (KNOWN, CLEAN, 0, "No known vulnerabilities"),
        (KNOWN, FOUND, 1, "CVE-2020-0001"),
        (SKIPPED, CLEAN, NOT_DONE, "NOT DONE"),
        ("echo ConnectionError >&2; exit 1", CLEAN, NOT_DONE, "ConnectionError"),
    ],
)
def test_the_audit_is_done_only_where_a_known_vulnerability_is_found(
    tmp_path: Path, of_the_known: str, of_ours: str, status: int, said: str
) -> None:
    """The program stands for a Python whose pip-audit answers so."""
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\ncase $* in *--version*) ;; *--requirement*) {of_the_known};; *) {of_ours};; esac\n"
    )
    python.chmod(0o755)
    found = subprocess.run([str(AUDIT), str(python)], capture_output=True, text=True, check=False)
    assert found.returncode == status
    assert said in found.stdout + found.stderr


def test_without_pip_audit_the_audit_fails(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    assert subprocess.run([str(AUDIT), str(python)], check=False).returncode == 1
