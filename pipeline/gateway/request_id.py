"""The id of an HTTP request, which its log lines and its response carry; the response middleware calls this.

A client or proxy may send its own id in `X-Request-Id`, so that one id leads through the logs of all. Anybody can send
one: it serves to find lines, never to authenticate or to recognize a repeated request.
"""

import re
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

from pipeline.runtime.fair_threads import CURRENT_CALLER
from pipeline.runtime.observing.logs import bind_log_fields, clear_log_fields
from pipeline.runtime.ports import NewId

HEADER: Final = "X-Request-Id"
_SAFE_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)
"""Ids that are logged and sent back as they came: no spaces, quotes or line ends, and no @, as in an address."""


def begin_request(scope: Scope, new_id: NewId) -> str:
    """Return the request's id, and bind it to the log lines of the current task.

    First remove what an earlier request has left: a task that serves a pipelined request inherits the context of the
    one before it, and would log its tenant and use its share of threads.
    """
    clear_log_fields()
    CURRENT_CALLER.set("")
    sent_id = Headers(scope=scope).get(HEADER, "")
    request_id = sent_id if _SAFE_ID.fullmatch(sent_id) else new_id()
    bind_log_fields(request_id=request_id)
    return request_id
