"""The commands that a page has people type. Knows nothing of what they do."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.deploy.manifests import ROOT


def page(name: str) -> str:
    """A page of docs/."""
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """What stands below each heading of the second level."""
    found = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return dict(found)


def blocks(text: str) -> list[str]:
    """Every line of every indented block, without its remark."""
    return [
        line.partition("  #")[0].strip() for line in re.findall(r"^    (\S.*)", text, re.MULTILINE)
    ]


def inline(text: str) -> list[str]:
    """What stands between backticks elsewhere, on one line or broken over two."""
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    return [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", prose)]


def commands(program: str, *names: str) -> list[str]:
    """Every whole command of that program on some pages, each once."""

    def of(text: str) -> Iterator[str]:
        for command in (*blocks(text), *inline(text)):
            bare = re.sub(r"^(?:[A-Z_]+=\S+ )*", "", command)
            if bare.startswith(f"{program} "):
                yield bare

    return sorted({command for name in names for command in of(page(name))})
