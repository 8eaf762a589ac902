"""Read the forms that the console's pages send, and check that they are from them."""

from typing import Final
from urllib.parse import parse_qsl

from fastapi import Request

from pipeline.errors import Refused
from pipeline.gateway.console.sessions import (
    SESSION_COOKIE,
    read_cookie,
    require_form_token,
    require_own_page,
)
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.request_body import read_raw_body

FORM_MAX_BYTES: Final = 100_000
MAX_FIELDS: Final = 600
REASON_MAX_CHARS: Final = 200
TOKEN_FIELD: Final = "form_token"  # noqa: S105 - the name of a field


class ConsoleForm:
    """The fields of a form, in order; a name may stand more than once."""

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self._fields = fields

    def get(self, name: str) -> str:
        """Return the first field of this name, without blanks at its ends; empty if there is none."""
        return next((value.strip() for field, value in self._fields if field == name), "")

    def all(self, name: str) -> list[str]:
        """Return all fields of this name."""
        return [value for field, value in self._fields if field == name]

    def reason(self) -> str:
        """Return the reason for a change. Raise Refused where there is none, or too long a one."""
        text = self.get("reason")
        if not text:
            raise Refused("give a reason: it is shown to whoever asks later why this was done")
        if len(text) > REASON_MAX_CHARS:
            raise Refused(f"the reason is longer than {REASON_MAX_CHARS} characters")
        return text


async def read_form(request: Request, cookie_name: str = SESSION_COOKIE) -> ConsoleForm:
    """Return the form of a request. Raise HttpProblem: 400, 403 unless it is from our own page, 408, 413 or 503."""
    require_own_page(request)
    body = await read_raw_body(request, FORM_MAX_BYTES)
    try:
        fields = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise HttpProblem(400, "this is not a form of the console") from None
    form = ConsoleForm(fields)
    require_form_token(read_cookie(request, cookie_name), form.get(TOKEN_FIELD))
    return form
