"""Claims about /ui as people meet it: a real service, a real Chromium, at a desk and on a phone."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    FilePayload,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)

from adaptsvc.processes import Child, service_command, service_environment, settings_environment
from adaptsvc.serving.keys import new_key
from adaptsvc.state import open_state
from adaptsvc.versions.manifest import Calibration, Draft, ReliabilityBin
from tests.conftest import draw_png, settings_for

pytestmark = pytest.mark.integration
ADMIN, ADMIN_HASH = new_key("ops", "admin")
DATA, DATA_HASH = new_key("phone", "data")
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
READY_S, PATIENCE_MS = 120.0, 30_000
FAILED_LOAD = "Failed to load resource"  # Chromium's own line for every answer of 400 and more
BINS = (
    ReliabilityBin(images=4, confidence=0.25, accuracy=0.5),
    ReliabilityBin(images=12, confidence=0.875, accuracy=0.75),
)
FIELDS = {"value": 0.2, "statistic": 3.5, "threshold": 9.2, "alarm": False, "since": None}
SIGNALS = ("embedding", "confidence", "entropy", "classes", "ood", "decode")
DRIFT = {
    "model_version": 2,
    "reference": {"version": 2, "images": 512, "built_at": "2026-05-04T03:02:01Z"},
    "images": 321,
    "signals": [{"signal": name, **FIELDS, "alarm": name == "ood"} for name in SIGNALS],
}


def chromium() -> str:
    """Debian's Chromium, or one named in CHROMIUM; a missing one is a failure in CI, a skip elsewhere."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    for name in filter(None, names):
        if found := shutil.which(name):
            return found
    message = "no chromium: apt-get install chromium, or name one in CHROMIUM"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        # Its sandbox needs a user of its own, which containers do not have; it opens our own page only.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def publish_history(home: Path, directory: Path) -> None:
    """Version 0, two that learned from it, of which the second was judged by labels, and one refused."""
    state = open_state(settings_for(directory, home))
    zero = state.store.load(0)

    def draft(parent: int, **changes: Any) -> Draft:
        same = {name: getattr(zero.manifest, name) for name in Draft.model_fields}
        return Draft(**{**same, "parent": parent, "method": "ueo", **changes})

    by_labels = Calibration(temperature=1.5, fitted_on="labels", reliability=BINS)
    measured = {"gain_over_zero_shot_on_labels": 0.125, "labels_judged_by": 32.0}
    estimated = {"gain_over_zero_shot_estimate": 0.01, "gain_over_zero_shot_bound": 0.2}
    state.store.publish(draft(0, metrics=estimated), zero.delta, zero.head)
    worse = {**measured, "gain_over_zero_shot_on_labels": -0.0625}
    reasons = ("worse_accuracy_on_labels",)
    state.store.refuse(draft(1, metrics=worse), zero.delta, zero.head, reasons)
    made = draft(1, method="core", metrics=measured, calibration=by_labels)
    state.store.publish(made, zero.delta, zero.head)
    state.pointer.force(2)


class Site:
    """A service process over a small history, and its address."""

    def __init__(self, directory: Path, template: Path, home: Path, **overrides: str) -> None:
        shutil.copytree(template, home)
        publish_history(home, directory)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        values = {"home": str(home), "serve.port": str(port), "serve.workers": "1"}
        settings = settings_for(directory, home)
        settings = settings.model_copy(
            update={"serve": settings.serve.model_copy(update={"port": port, "workers": 1})}
        )
        values |= {"classes": json.dumps(settings.classes), "model": settings.model}
        values |= {"serve.poll_interval_s": "0.1", **overrides}
        environment = {**settings_environment(values), **service_environment(settings)}
        self.url = f"http://127.0.0.1:{port}"
        self.pointer = open_state(settings).pointer
        self.log = home / "service.log"
        self.child = Child.start("service", service_command(settings), environment, self.log)

    def wait_until_ready(self) -> None:
        """Until a version serves."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=10).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        pytest.fail(self.log.read_text()[-3000:])


@pytest.fixture(scope="module")
def sites(
    tiny_vit_directory: Path,
    tiny_home: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Site]]:
    """Two services, started together: one without keys, one with."""
    folder, template = tmp_path_factory.mktemp("ui"), tiny_home(tiny_vit_directory)
    keys = json.dumps([str(ADMIN_HASH), str(DATA_HASH)])
    found: dict[str, Site] = {}
    try:
        for name, overrides in (("open", {}), ("keyed", {"serve.keys": keys})):
            found[name] = Site(tiny_vit_directory, template, folder / name, **overrides)
        for site in found.values():
            site.wait_until_ready()
        yield found
    finally:
        for site in found.values():
            site.child.stop(5)


class Tab:
    """A page, and what it said and asked for."""

    def __init__(self, browser: Browser, site: Site, **context: Any) -> None:
        self.site = site
        self.context = browser.new_context(**{"viewport": DESK, **context})
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", self._note)

    def open(self, drift: dict[str, Any] | None = None) -> Page:
        """The page with what serves on it; /v1/drift answers this, or 404."""
        body = {"json": drift} if drift else {"status": 404, "json": {}}

        def answer(route: Route) -> None:
            route.fulfill(**body)

        self.page.route("**/v1/drift", answer)
        self.page.goto(f"{self.site.url}/ui")
        return self.page

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(FAILED_LOAD):
            self.said.append(message.text)

    def _note(self, request: Request) -> None:
        self.asked.append(request.url)


@pytest.fixture
def tab(browser: Browser, sites: dict[str, Site]) -> Iterator[Callable[..., Tab]]:
    """`tab(site, **context)`; when it closes, it has complained of nothing and asked nobody else."""
    tabs: list[Tab] = []

    def make(site: str = "open", **context: Any) -> Tab:
        tabs.append(Tab(browser, sites[site], **context))
        return tabs[-1]

    yield make
    for each in tabs:
        each.context.close()
        assert each.said == []
        own = (f"{each.site.url}/", f"blob:{each.site.url}/", "data:")
        assert [url for url in each.asked if not url.startswith(own)] == []
        assert not [url for url in each.asked if ADMIN in url or DATA in url]


def drop(page: Page, data: bytes) -> None:
    """Drop a file on the page as a file manager does."""
    transfer = page.evaluate_handle(
        """(bytes) => { const moved = new DataTransfer();
        moved.items.add(new File([new Uint8Array(bytes)], "a.png", {type: "image/png"})); return moved; }""",
        list(data),
    )
    page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})


def violations(page: Page) -> list[tuple[str, list[str]]]:
    """What axe finds against WCAG 2.1 A and AA, contrast among it."""
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    found = Axe().run(page, options=options).response["violations"]
    return [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found]


def row(page: Page, version: int) -> Any:
    return page.locator(".timeline tr", has=page.locator(f"th:text-is('{version}')"))


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_there_readable_and_within_the_width(
    tab: Callable[..., Tab], viewport: dict[str, int], scheme: str
) -> None:
    page = tab(viewport=viewport, color_scheme=scheme).open(DRIFT)
    expect(page.locator("#gain canvas")).to_be_visible()
    expect(page.locator("#reliability canvas")).to_be_visible()
    expect(page.locator("[data-signal] canvas")).to_have_count(len(SIGNALS))
    drop(page, draw_png(0))
    expect(page.locator(".verdict .label")).to_be_visible()
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert len(page.screenshot(full_page=True)) > 20_000


def test_an_image_dropped_is_answered_as_the_service_answers_it(tab: Callable[..., Tab]) -> None:
    opened = tab()
    page, data = opened.open(), draw_png(1)
    headers = {"content-type": "image/png"}
    answer = httpx.post(f"{opened.site.url}/v1/classify", content=data, headers=headers).json()
    result = answer["results"][0]
    drop(page, data)
    expect(page.locator(".verdict .label")).to_have_text(result["label"])
    expect(page.locator(".verdict")).to_contain_text(f"{100 * result['confidence']:.1f} % sure")
    expect(page.locator(".bars li")).to_have_count(len(result["top"]))
    bars = page.locator(".bars progress").evaluate_all("bars => bars.map(bar => bar.value)")
    assert bars == pytest.approx([each["probability"] for each in result["top"]], abs=1e-4)
    expect(page.locator(".ood")).to_contain_text(f"OOD score {result['ood_score']:.3g}")
    expect(page.locator(".ood .badge")).to_have_text("no threshold yet")


def test_what_is_no_image_is_told_in_words(tab: Callable[..., Tab]) -> None:
    page = tab().open()
    drop(page, b"this is no picture")
    expect(page.get_by_role("alert")).to_contain_text("not a format we read")


def test_the_history_tells_gains_and_why_a_candidate_was_refused(tab: Callable[..., Tab]) -> None:
    page = tab().open()
    expect(row(page, 2)).to_contain_text("+12.5 points on 32 labels")
    expect(row(page, 1)).to_contain_text("+1.0 points estimated, ±20.0")
    expect(row(page, 0)).to_contain_text("the reference")
    refused = page.locator(".timeline .refused")
    expect(refused).to_contain_text("6.3 points on 32 labels")
    expect(refused).to_contain_text("less accurate on held-out labels")


def test_the_reliability_is_that_of_the_manifest(tab: Callable[..., Tab]) -> None:
    page = tab().open()
    expect(page.locator(".serving")).to_contain_text("on 16 held-out labels")
    expect(page.locator(".serving")).to_contain_text("(ECE) 15.6 %")
    page.get_by_text("The figures").click()
    expect(page.locator(".serving tbody tr").first).to_have_text("25.0 %50.0 %4")


def test_without_drift_the_page_says_so_and_asks_no_more(tab: Callable[..., Tab]) -> None:
    opened = tab()
    page = opened.open()
    expect(page.locator("article", has_text="Drift")).to_contain_text("Not available")
    with page.expect_response("**/v1/model"):
        pass  # the next look
    assert len([url for url in opened.asked if url.endswith("/v1/drift")]) == 1


def test_an_alarm_of_drift_is_shown(tab: Callable[..., Tab]) -> None:
    page = tab().open(DRIFT)
    signal = page.get_by_role("region", name="Share out of distribution")
    expect(signal.locator(".badge")).to_have_text("alarm")
    expect(signal).to_contain_text("evidence 3.50, alarm at 9.20")


def test_the_page_is_for_anybody_and_its_calls_are_not(tab: Callable[..., Tab]) -> None:
    page = tab("keyed").open()
    expect(page.get_by_text("This service asks for an API key").first).to_be_visible()
    page.get_by_label("API key").fill("no key of theirs")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The service does not know this key.").first).to_be_visible()
    page.get_by_label("API key").fill(DATA)
    page.keyboard.press("Enter")
    expect(row(page, 2)).to_contain_text("serving")
    drop(page, draw_png(2))
    expect(page.locator(".verdict .label")).to_be_visible()


def test_a_rollback_takes_an_admin_key_and_neither_key_is_kept(tab: Callable[..., Tab]) -> None:
    """By keyboard alone, from the first key to the last."""
    opened = tab("keyed")
    page = opened.open()
    page.get_by_label("API key").focus()
    page.keyboard.type(DATA)
    page.keyboard.press("Enter")
    row(page, 0).get_by_role("button", name="Activate version 0").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Activate version 0?")
    assert violations(page) == []
    dialog.get_by_label("Hold it").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("takes an admin key")
    assert opened.site.pointer.read().version == 2
    dialog.get_by_label("API key").focus()
    page.keyboard.type(ADMIN)
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Activate").focus()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(row(page, 0)).to_contain_text("serving")
    current = opened.site.pointer.read()
    assert (current.version, current.held) == (0, True)
    expect(page.get_by_text("Version 0 is held")).to_be_visible()
    kept = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    assert kept == '[{},{},""]'
    assert page.url == f"{opened.site.url}/ui"


def test_a_version_is_pinned_and_unpinned(tab: Callable[..., Tab]) -> None:
    page = tab().open()
    page.get_by_role("button", name="Pin version 1").click()
    expect(row(page, 1).locator(".badge")).to_have_text("pinned")
    page.get_by_role("button", name="Unpin version 1").click()
    expect(row(page, 1).locator(".badge")).to_have_count(0)


def test_the_file_is_chosen_by_keyboard_and_escape_leaves_the_dialog(
    tab: Callable[..., Tab],
) -> None:
    page = tab().open()
    # With the first listener the browser is told to hand choosers over; a key may come before it heeds that.
    page.on("filechooser", lambda _: None)
    expect(row(page, 0)).to_be_visible()
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.type")
        )
    assert {"file", "Activate version 1", "Activate version 0"} <= set(seen)
    page.locator("input[type=file]").focus()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    picture: FilePayload = {"name": "a.png", "mimeType": "image/png", "buffer": draw_png(3)}
    chooser.value.set_files(picture)
    expect(page.locator(".verdict .label")).to_be_visible()
    page.get_by_role("button", name="Activate version 0").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(row(page, 2)).to_contain_text("serving")
