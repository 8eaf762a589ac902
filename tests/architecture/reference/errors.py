"""The errors' own messages and the HTTP statuses, from the code."""

from collections.abc import Iterator

from pipeline import errors
from tests.architecture.reference.gateway import openapi
from tests.architecture.reference.http import TAGS
from tests.architecture.reference.markdown import prose, table

_GROUPS = (
    (errors.RecoverableError, "yes"),
    (errors.PermanentError, "no"),
)


def part() -> str:
    messages = [(message, again) for kind, again in _GROUPS for message in _messages(kind)]
    return "\n".join(
        [
            "## Messages\n",
            table(("default message", "may the same work later?"), messages),
            "## HTTP statuses\n",
            table(("status", "API", "meaning"), _statuses()),
        ]
    )


def _messages(kind: type[errors.MailfoldError]) -> Iterator[str]:
    yield prose(kind.__doc__ or "")
    for narrower in kind.__subclasses__():
        if narrower.__module__ == errors.__name__:
            yield from _messages(narrower)


def _statuses() -> list[tuple[str, str, str]]:
    page_of = {tag: name for name, tag in TAGS.items()}
    found: dict[tuple[str, str], dict[str, None]] = {}
    for methods in openapi()["paths"].values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if status.startswith(("4", "5")) and status != "422":
                    key = (status, page_of[operation["tags"][0]])
                    found.setdefault(key, {})[answer.get("description", "")] = None
    return [
        (status, f"[{page}](http/{page}.md)", " ".join(meanings)) for (status, page), meanings in sorted(found.items())
    ]
