"""Pages escape everything, name nothing outside, and have no script or style of their own."""

import re
from pathlib import Path

import pytest

from pipeline.gateway.console import rendering
from pipeline.gateway.console.rendering import PAGE_CSP, STYLESHEET, ConsolePages
from tests.support.console import HOSTILE

TEMPLATES = sorted((Path(rendering.__file__).parent / "templates").glob("*.html"))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_template_has_nothing_that_the_policy_forbids(template: Path) -> None:
    text = template.read_text(encoding="utf-8")
    assert not re.search(r"<script|<style|\sstyle=|\son[a-z]+=|javascript:|\|\s*safe\b|autoescape", text, re.IGNORECASE)
    urls = re.findall(r'(?:href|src|action)="([^"]*)"', text)
    assert [url for url in urls if not url.startswith(("/console", "{{", "#", "data:,"))] == []
    assert re.findall(r'<form(?![^>]*method="post")[^>]*>', text) == []
    forms = re.findall(r"<form.*?</form>", text, re.DOTALL)
    assert [form for form in forms if not re.search(r"form_token|token_of", form)] == []


def test_stylesheet_loads_nothing() -> None:
    assert not re.search(rb"@import|url\(|expression|https?:", STYLESHEET)


def error_page(text: str) -> str:
    return bytes(ConsolePages(lambda: 0).page("error.html", title=text, text=text).body).decode()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_text(text: str) -> None:
    page = error_page(text)
    own = error_page("x")
    assert re.findall(r"<[a-z/!][^>]*>", page) == re.findall(r"<[a-z/!][^>]*>", own)
    assert "\x1b" not in page
    assert "\x00" not in page


def test_policy_is_that_of_the_issue() -> None:
    for directive in (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "form-action 'self'",
        "base-uri 'none'",
    ):
        assert directive in PAGE_CSP
    assert "unsafe" not in PAGE_CSP
    assert "http" not in PAGE_CSP


@pytest.mark.parametrize(
    ("at", "shown"),
    [(1_700_000_000_000, "2023-11-14 22:13:20"), (None, ""), (2**62, ""), (-1, "1969-12-31 23:59:59")],
)
def test_moment_is_shown_in_utc(at: int | None, shown: str) -> None:
    assert rendering.format_moment(at) == shown
