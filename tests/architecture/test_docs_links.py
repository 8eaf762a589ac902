"""Check that every relative link and anchor in the repository's Markdown files leads somewhere."""

import re
from functools import cache
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT, tracked

PAGES = sorted(path for path in tracked() if path.suffix == ".md")
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_CODE = re.compile(r"`[^`\n]*`")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_and_anchors_exist(page: Path) -> None:
    broken = [link for link in links(page.read_text("utf-8")) if not leads_somewhere(page, link)]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page_has_one_title(page: Path) -> None:
    if page.is_relative_to(DOCS):
        prose = _FENCE.sub("", page.read_text("utf-8"))
        assert prose.startswith("# ")
        assert len(re.findall(r"^# ", prose, re.MULTILINE)) == 1


def test_index_reaches_every_page() -> None:
    reached, waiting = set(), [DOCS / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached and page.suffix == ".md" and page.is_file():
            reached.add(page)
            targets = (link.partition("#")[0] for link in links(page.read_text("utf-8")) if not is_external(link))
            waiting += [(page.parent / target).resolve() for target in targets if target]
    assert [name_of(page) for page in PAGES if page.is_relative_to(DOCS) and page not in reached] == []


def test_index_names_every_page_itself_except_providers() -> None:
    index = DOCS / "README.md"
    named = {(index.parent / link.partition("#")[0]).resolve() for link in links(index.read_text("utf-8"))}
    pages = [page for page in PAGES if page.is_relative_to(DOCS) and page != index]
    providers = DOCS / "how-to" / "providers"
    missing = {page for page in pages if page not in named and page.parent != providers}
    assert {name_of(page) for page in missing} == set()


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Hard or soft", "hard-or-soft"),
        ("`/v1/Email/`", "v1email"),
        ("What it can't tell", "what-it-cant-tell"),
        ("Run it: now", "run-it-now"),
        ("`POST /mail/v1/{tracking_hash}/open`", "post-mailv1tracking_hashopen"),
        ("See [the log](log.md)", "see-the-log"),
    ],
)
def test_anchor_is_made_as_forges_make_it(heading: str, anchor: str) -> None:
    assert slug(heading) == anchor


def test_repeated_headings_get_numbered_anchors() -> None:
    assert anchors_of("# One\n\n## Two\n\n```sh\n# no heading\n```\n\n## Two\n") == {"one", "two", "two-1"}


def test_broken_link_is_found() -> None:
    page = DOCS / "README.md"
    assert not leads_somewhere(page, "no-such-page.md")
    assert not leads_somewhere(page, "../README.md#no-such-heading")
    assert leads_somewhere(page, "../README.md#mailfold")
    assert links("[a](b.md) and `[c](d.md)`\n```\n[e](f.md)\n```\n") == ["b.md"]


def links(markdown: str) -> list[str]:
    return _LINK.findall(_CODE.sub("", _FENCE.sub("", markdown)))


def is_external(link: str) -> bool:
    return bool(re.match(r"[a-z]+:", link))


def leads_somewhere(page: Path, link: str) -> bool:
    if is_external(link):
        return True
    target, _, anchor = link.partition("#")
    found = (page.parent / target).resolve() if target else page
    return found.exists() and (not anchor or anchor in anchors(found))


@cache
def anchors(page: Path) -> set[str]:
    return anchors_of(page.read_text("utf-8")) if page.suffix == ".md" else set()


def anchors_of(markdown: str) -> set[str]:
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#* *$", _FENCE.sub("", markdown), re.MULTILINE):
        base, number = slug(heading), 0
        while (anchor := f"{base}-{number}" if number else base) in found:
            number += 1
        found.add(anchor)
    return found


def slug(heading: str) -> str:
    """GitHub's way: links and marks removed, lower case, punctuation removed, a hyphen for each blank."""
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", shown.replace("*", "").lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_source_paths_named_on_page_exist(page: Path) -> None:
    named = re.findall(r"`((?:pipeline|topics|projections|tests|bench|docs)/[\w./-]+)`", page.read_text("utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []
