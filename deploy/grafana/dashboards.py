"""All dashboards, and their files under k8s/grafana: `python -m deploy.grafana.dashboards` writes them."""

from __future__ import annotations

from pathlib import Path

from deploy.grafana import drift, learning, serving, streams

FOLDER = Path(__file__).parents[2] / "k8s" / "grafana"


def dashboards() -> dict[str, str]:
    """File name to JSON."""
    boards = {"serving": serving, "learning": learning, "drift": drift, "streams": streams}
    return {f"{name}.json": module.dashboard() for name, module in boards.items()}


def write(folder: Path = FOLDER) -> None:
    """Write every file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in dashboards().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
