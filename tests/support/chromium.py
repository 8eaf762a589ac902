"""Open pages in a real Chromium, and keep what it says on its console, requests and forbids."""

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from playwright.async_api import BrowserContext, Page, async_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def chromium_path() -> str:
    """Return the path of the browser; skip the test where there is none. CI allows that nowhere."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: install Debian's chromium, or another of {', '.join(BROWSERS)}")
    return path


class SeenPage:
    """A page, and all that went wrong on it."""

    def __init__(self, page: Page, host: str) -> None:
        self.page = page
        self._host = host
        self.faults: list[str] = []
        page.on("console", lambda message: self._note(f"console: {message.type} {message.text}"))
        page.on("pageerror", lambda error: self._note(f"error: {error}"))
        page.on("requestfailed", lambda request: self._note(f"failed: {request.url} {request.failure}"))
        page.on("request", lambda request: self._note_request(request.url))
        page.on("dialog", lambda dialog: self._note(f"dialog: {dialog.message}"))

    async def open(self, path: str) -> None:
        """Open a page of the host."""
        await self.page.goto(f"http://{self._host}{path}", wait_until="load")

    async def is_hit(self) -> bool:
        """Return whether a hostile text could run."""
        return bool(await self.page.evaluate("window.hit === 1"))

    async def overflow_px(self) -> int:
        """Return by how much the page is wider than its window."""
        width: int = await self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        return width

    def _note(self, fault: str) -> None:
        self.faults.append(fault)

    def _note_request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "about", "blob") and parts.netloc != self._host:
            self.faults.append(f"request to another host: {url}")


@contextlib.asynccontextmanager
async def chromium(
    host: str, *, width: int = 1280, dark: bool = False, scripts: bool = True
) -> AsyncIterator[SeenPage]:
    """Open a browser for pages of a host, given as name and port."""
    path = chromium_path()
    async with async_playwright() as playwright:
        # Chromium's sandbox needs rights that a container's root has not.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            context: BrowserContext = await browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme="dark" if dark else "light",
                java_script_enabled=scripts,
                service_workers="block",
            )
            yield SeenPage(await context.new_page(), host)
        finally:
            await browser.close()


async def sign_in(seen: SeenPage, key: str) -> None:
    """Sign in to the console as people do."""
    await seen.open("/console/sign-in")
    await seen.page.get_by_label("API key").fill(key)
    await seen.page.get_by_role("button", name="Sign in").click()
    await seen.page.wait_for_url("**/console")
