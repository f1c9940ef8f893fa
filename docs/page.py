"""The picture of the page: `python -m docs.page` writes docs/ui.png; `--phone FILE` that of a phone, too.

A service and a worker of the bundled model run on a new home. The service is asked about held-out pictures of
the demo, samples all of them into the stream, and is told what they show; the worker makes versions of that.
Then a browser opens the page, clothes come for a while, and then emoji of animals, food and vehicles until
drift is told. It takes minutes; nothing is made up. It needs the extra `dev` and a Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Browser, FilePayload, Page, ViewportSize, expect, sync_playwright

from adaptsvc.demo.data import CLASSES, UNKNOWN, Picture, load_scene
from adaptsvc.demo.run import settings_of
from adaptsvc.processes import (
    Child,
    service_command,
    service_environment,
    settings_environment,
    stop_all,
    worker_command,
)
from tests.conftest import free_port

PNG = Path(__file__).with_name("ui.png")
DESK, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=390, height=844)
ROUNDS, ROUND_IMAGES, HELD_OUT, CALM, STRANGE = 3, 96, 1000, 48, 40
RATE_PER_S = 4.0
PATIENCE_S, STEP_S = 900.0, 0.5


class Visitors:
    """Those who ask the service, and say what clothes they have sent.

    Args:
        url: of the service.
        pictures: what they have.
    """

    def __init__(self, url: str, pictures: Sequence[Picture]) -> None:
        self._client = httpx.Client(base_url=url, timeout=60)
        self.clothes = [picture for picture in pictures if picture.label != UNKNOWN]
        self.strange = [picture for picture in pictures if picture.label == UNKNOWN]

    def ready(self) -> bool:
        """Whether the service is."""
        try:
            return self._client.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def rounds(self) -> int:
        """How many came to an end: versions after the first, and refused candidates."""
        history = self._client.get("/v1/versions").json()
        return len(history["versions"]) - 1 + len(history["refused"])

    def wait_for(self, rounds: int) -> None:
        """Return when so many rounds are over."""
        wait(lambda: self.rounds() >= rounds, f"round {rounds} is over")

    def ask(self, picture: Picture) -> None:
        """One picture; of clothes also what it shows."""
        headers = {"content-type": "image/png", "x-image-id": picture.image_id}
        self._client.post("/v1/classify", content=picture.data, headers=headers).raise_for_status()
        if picture.label != UNKNOWN:
            said = {"image_id": picture.image_id, "label": CLASSES[picture.label]}
            self._client.post("/v1/feedback", json=said).raise_for_status()
        time.sleep(1 / RATE_PER_S)

    def known(self, count: int) -> None:
        """Ask so many pictures of clothes."""
        for picture in self.clothes[:count]:
            self.ask(picture)
        del self.clothes[:count]


def wait(holds: Callable[[], bool], what: str) -> None:
    """Return when it holds; SystemExit after a long time."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {PATIENCE_S:g} s: {what}")
        time.sleep(STEP_S)


@contextmanager
def installation(home: Path) -> Iterator[str]:
    """The address of a service of the demo's classes, with a worker that learns often."""
    overrides = {
        "home": str(home),
        "classes": json.dumps(CLASSES),
        "serve.port": str(free_port()),
        "serve.workers": "1",
        "serve.poll_interval_s": "0.2",
        "serve.keys": "[]",
        "sample.fraction": "1",
        "sample.per_second": "1000",
        "learn.round_images": str(ROUND_IMAGES),
        "learn.window_images": str(2 * ROUND_IMAGES),
        "tune.labels_min": "0",
    }
    settings = settings_of(overrides)
    environment = settings_environment(overrides)
    own = {**environment, **service_environment(settings)}
    children = [Child.start("service", service_command(settings), own, home / "service.log")]
    try:
        children.append(Child.start("worker", worker_command(), environment, home / "worker.log"))
        yield f"http://127.0.0.1:{settings.serve.port}"
    finally:
        stop_all(children)


def opened(browser: Browser, url: str, viewport: ViewportSize) -> Page:
    """The page, which notes drift from now on."""
    page = browser.new_context(viewport=viewport, device_scale_factor=1).new_page()
    page.goto(f"{url}/ui")
    expect(page.locator("[data-signal] canvas")).to_have_count(6, timeout=1000 * PATIENCE_S)
    return page


def take(page: Page, picture: Picture, file: Path) -> None:
    """Drop a picture on the page, and save how all of it looks."""
    dropped: FilePayload = {"name": "a.png", "mimeType": "image/png", "buffer": picture.data}
    page.locator("input[type=file]").set_input_files(dropped)
    expect(page.locator(".verdict .label")).to_be_visible(timeout=1000 * PATIENCE_S)
    page.screenshot(path=file, full_page=True)


def show(url: str, visitors: Visitors, files: dict[Path, ViewportSize]) -> None:
    """Pages that see clothes for a while, and then strangers."""
    shown = visitors.clothes.pop()
    with sync_playwright() as playwright:
        # Its sandbox needs a user of its own, which containers do not have; it opens our own page only.
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        pages = {file: opened(browser, url, size) for file, size in files.items()}
        visitors.known(CALM)
        for picture in visitors.strange[:STRANGE]:
            visitors.ask(picture)
        for file, page in pages.items():
            expect(page.locator(".signals .bad").first).to_be_visible(timeout=1000 * PATIENCE_S)
            take(page, shown, file)
        browser.close()


def main() -> None:
    """Learn, ask, look."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--png", type=Path, default=PNG, help="where the picture goes")
    parser.add_argument("--phone", type=Path, help="where that of a phone goes")
    options = parser.parse_args()
    files = {options.png: DESK} | ({options.phone: PHONE} if options.phone else {})
    pictures = load_scene(0, streamed=0, held_out=HELD_OUT).held_out
    with (
        tempfile.TemporaryDirectory(prefix="adaptsvc-page-") as folder,
        installation(Path(folder)) as url,
    ):
        visitors = Visitors(url, pictures)
        wait(visitors.ready, "the service is ready")
        for done in range(1, ROUNDS + 1):
            visitors.known(ROUND_IMAGES)
            visitors.wait_for(done)
        show(url, visitors, files)


if __name__ == "__main__":
    main()
