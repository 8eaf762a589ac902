"""Take a picture of every page of the console, light and dark, wide and narrow; `make screenshots` runs it.

It runs the demo, so that the pages show emails of every fate, and stops it at the end.
"""

import argparse
import asyncio
import re
import signal
import sys
from pathlib import Path

from tests.support.chromium import SeenPage, chromium, sign_in

START_TIMEOUT_S = 300.0
WINDOWS = tuple((width, dark) for width in (1280, 390) for dark in (False, True))
SEARCHES = {"delivered": "status:delivered", "bounced": "status:bounced", "complained": "status:complained"}


async def take_pictures(folder: Path) -> None:
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pipeline", "demo", "--stay"), stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            host, key = await read_access(demo)
        for width, dark in WINDOWS:
            suffix = f"{width}-{'dark' if dark else 'light'}"
            async with chromium(host, width=width, dark=dark) as seen:
                await take_all(seen, key, folder, suffix)
    finally:
        demo.send_signal(signal.SIGINT)
        await demo.communicate()


async def read_access(demo: asyncio.subprocess.Process) -> tuple[str, str]:
    """Return the console's host and port, and the API key, which the demo prints at its end."""
    assert demo.stdout is not None
    host = ""
    async for line in demo.stdout:
        text = line.decode()
        print(text, end="")
        if match := re.match(r"Console +http://([^/]+)/console", text):
            host = match[1]
        if match := re.match(r"API key +(\S+)", text):
            return host, match[1]
    raise SystemExit("the demo ended without naming the console")


async def take_all(seen: SeenPage, key: str, folder: Path, suffix: str) -> None:
    async def take(name: str) -> None:
        await seen.page.screenshot(path=folder / f"{name}-{suffix}.png", full_page=True)

    await seen.open("/console/sign-in")
    await take("sign-in")
    await sign_in(seen, key)
    await take("overview")
    for name in ("emails", "dead-letters", "lanes", "suppressions"):
        await seen.open(f"/console/{name}")
        await take(name)
    for name, query in SEARCHES.items():
        await seen.open("/console/emails")
        await seen.page.get_by_label("Search emails").fill(query)
        await seen.page.keyboard.press("Enter")
        await seen.page.wait_for_url("**/console/emails?*")
        await seen.page.locator(".emails a").first.click()
        await seen.page.wait_for_url(re.compile(r"/console/emails/[0-9a-f-]{36}$"))
        await take(f"email-{name}")
    await seen.page.get_by_role("link", name="Show the message").click()
    await seen.page.frame_locator("iframe").get_by_text("Hello").first.wait_for()
    await take("message")
    await seen.open("/console/suppressions")
    await seen.page.get_by_role("button", name="details").first.click()
    await take("address")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("screenshots"))
    chosen: Path = parser.parse_args().folder
    chosen.mkdir(parents=True, exist_ok=True)
    asyncio.run(take_pictures(chosen))
