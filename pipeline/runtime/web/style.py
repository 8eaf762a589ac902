"""The shared stylesheet, ready to stand inside a page; used by the gateway's pages and the sandbox's inbox."""

import base64
import hashlib
from pathlib import Path
from typing import Final

STYLE: Final = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
"""The text of a page's ``<style>`` element."""

STYLE_CSP_SOURCE: Final = f"'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
"""What a page's Content-Security-Policy names in ``style-src`` to allow this stylesheet and no other."""
