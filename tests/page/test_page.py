"""The status page in a real browser, as an operator sees it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import PASSWORD, ROOT, Gateway, Server, Traffic, eventually
from playwright.sync_api import Browser, Page

DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
SOON = 15_000  # ms until the page shows what changed: it is fetched every 3 s, and a Redis may need a few to come back


@contextmanager
def opened(browser: Browser, gateway: Gateway, **settings: Any) -> Iterator[Page]:
    """The page, opened; at the end nothing may have been complained of, nor asked for elsewhere."""
    context = browser.new_context(**settings)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: request.url.startswith((gateway.url, "data:")) or complaints.append(request.url))
    page.goto(gateway.url)
    yield page
    context.close()
    assert complaints == []


def busy(gateway: Gateway, traffic: Traffic) -> None:
    """Waits for traffic that is well, and until Redis tells the cache of changes."""
    eventually(lambda: traffic.rounds > 20 and gateway.json()["problems"] == [], "traffic without a problem")


def verdict(page: Page) -> str:
    return page.get_by_role("status").inner_text()


@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "light"), (PHONE, "dark")], ids=["desk", "phone"])
def test_fits_and_is_accessible(
    browser: Browser, gateway: Gateway, traffic: Traffic, viewport: Any, scheme: Any
) -> None:
    busy(gateway, traffic)
    with opened(browser, gateway, viewport=viewport, color_scheme=scheme) as page:
        assert "All is well" in verdict(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        found = Axe().run(page).response["violations"]
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
        text = page.inner_text("body")
    assert PASSWORD not in text and "alert(1)" not in text


def test_without_a_script(browser: Browser, gateway: Gateway, traffic: Traffic) -> None:
    busy(gateway, traffic)
    with opened(browser, gateway, java_script_enabled=False) as page:
        assert "All is well" in verdict(page)
        assert page.locator("noscript meta[http-equiv=refresh]").count() == 1
        for minutes in (5, 15, 1):
            page.locator(f"label[for=w{minutes}]").click()
            shown = page.locator(".tiles dl:visible")
            assert (shown.count(), shown.get_attribute("class")) == (1, f"w{minutes}")


def test_says_what_the_json_says(browser: Browser, gateway: Gateway, traffic: Traffic) -> None:
    busy(gateway, traffic)

    def published(said: Any) -> int:
        [calls] = [service["calls"][0] for service in said["services"] if service["name"] == "UserEvents"]
        return calls["outcomes"].get("OK", 0)

    # The figures are of a moment ago.
    eventually(lambda: published(gateway.json()) > 20, "calls in the figures")
    traffic.end()
    said = gateway.json()
    assert (said["state"], said["problems"]) == ("ready", [])
    with opened(browser, gateway) as page:
        rows = page.locator("section[aria-labelledby=services] tbody tr")
        names = [name.split()[0] for name in rows.locator("th").all_inner_texts()]
        assert names == [service["name"] for service in said["services"]]
        servers = page.locator("section[aria-labelledby=redis] tbody tr")
        assert servers.count() == sum(len(endpoint["servers"]) for endpoint in said["endpoints"]) > 4
        address = said["endpoints"][0]["servers"][0]["address"]
        assert re.fullmatch(r"127\.0\.0\.1:\d+", address) and address in servers.first.inner_text()


def test_open_streams_and_held_locks_are_counted(browser: Browser, gateway: Gateway, traffic: Traffic) -> None:
    eventually(lambda: traffic.rounds > 20, "traffic")
    with opened(browser, gateway) as page:
        section = page.locator("section[aria-labelledby=open]")

        def count(name: str) -> str:
            return section.locator("tr", has_text=name).locator("td").inner_text()

        names = ("Listen UserEvents", "Hold Locks", "Locks held", "Waiting for a lock", "Listeners to events", "Claims")
        assert [count(name) for name in names] == ["1", "2", "1", "1", "1", "1"]
        redis = page.locator("section[aria-labelledby=redis]")
        for endpoint, connections in (("user_events", "subscriptions 1, blocking 1"), ("cache", "tracking 1")):
            row = redis.locator("tbody", has_text=endpoint).inner_text()
            assert f"connections for {connections}" in row and re.search(r"\d of 4,096 in flight", row)
        traffic.end()
        section.locator("tr.off", has_text="Listen UserEvents").wait_for(timeout=SOON)
        assert count("Locks held") == "0"


def test_an_outage_comes_and_goes_in_place(browser: Browser, gateway: Gateway, server: Server, traffic: Traffic) -> None:
    eventually(lambda: traffic.rounds > 20, "traffic")
    with opened(browser, gateway) as page:
        page.locator("label[for=w5]").click()
        page.evaluate("window.same = true")
        server.kill()
        page.get_by_text("Redis of build_logs is down since").wait_for(timeout=SOON)
        assert "Serving, with failures" in verdict(page) and "Serving, with failures" in page.title()
        assert page.locator(".state.down").count() >= 5
        server.start()
        page.locator(".state.down").first.wait_for(state="detached", timeout=SOON)
        # The same document, with what its reader chose.
        assert page.evaluate("window.same") and page.locator("#w5").is_checked()


def test_a_gateway_that_is_gone_is_told(browser: Browser, gateway: Gateway) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(gateway.url)
    stale = page.get_by_role("alert")
    assert stale.is_hidden()
    gateway.kill()
    stale.wait_for(timeout=SOON)
    assert "does not answer" in stale.inner_text()
    gateway.start(gateway.listen)
    stale.wait_for(state="hidden", timeout=SOON)
    context.close()


@pytest.mark.skipif("SCREENSHOT_MINUTES" not in os.environ, reason="takes minutes, since it shows what they came to")
def test_screenshot(browser: Browser, gateway: Gateway, server: Server, traffic: Traffic) -> None:
    minutes = float(os.environ["SCREENSHOT_MINUTES"])
    eventually(lambda: traffic.rounds > 20, "traffic")
    folder = Path(os.environ.get("SCREENSHOT_FOLDER", ROOT / "docs/images"))
    folder.mkdir(exist_ok=True)
    for name, viewport in (("status", DESK), ("status-phone", PHONE)):
        with opened(browser, gateway, viewport=viewport, color_scheme="light") as page:
            page.wait_for_timeout(minutes * 60_000 / 2)
            page.locator("label[for=w5]").click()
            page.screenshot(path=folder / f"{name}.png", full_page=True)
