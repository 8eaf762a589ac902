"""The peer of the pixel stage: `python -m bench.bare PORT` serves the same image and records nothing."""

import sys

import uvicorn
from starlette.types import Receive, Scope, Send

from pipeline.gateway.headers import NO_STORE_HEADERS, asgi_headers
from pipeline.gateway.routes.tracking import PIXEL_GIF

START = {
    "type": "http.response.start",
    "status": 200,
    "headers": asgi_headers(NO_STORE_HEADERS, {"Content-Type": "image/gif", "Content-Length": str(len(PIXEL_GIF))}),
}
BODY = {"type": "http.response.body", "body": PIXEL_GIF}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request with the image."""
    await send(START)
    await send(BODY)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), http="httptools", lifespan="off", access_log=False, log_level="error")
