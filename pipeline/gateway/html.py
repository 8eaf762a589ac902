"""Render the pages that people see in a browser: a heading, a sentence and, optionally, a button.

The unsubscribe and tracking routes call it. A page has no script, loads nothing, and contains no address and no
part of the token. It works on every screen size, in light and dark mode, with screen readers and by keyboard.
"""

import base64
import hashlib
from html import escape
from typing import Final

from pipeline.content.unsubscribe import ONE_CLICK_FIELD

_STYLE: Final = (
    ":root{color-scheme:light dark;--page:#f3f5f8;--card:#fff;--text:#1b2430;--soft:#566171;--line:#dfe4eb;"
    "--key:#1f56b5;--on:#fff}"
    "@media(prefers-color-scheme:dark){:root{--page:#10141a;--card:#1a2029;--text:#e8edf4;--soft:#a5b0bf;"
    "--line:#2c3541;--key:#9cc2ff;--on:#0c1a30}}"
    "*{box-sizing:border-box}html{height:100%}"
    "body{margin:0;min-height:100%;display:grid;place-items:center;padding:1.5rem 1rem;background:var(--page);"
    "color:var(--text);font:1.0625rem/1.55 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif}"
    "main{width:100%;max-width:28rem;padding:2.25rem 1.75rem;background:var(--card);border:1px solid var(--line);"
    "border-radius:1rem;text-align:center;box-shadow:0 1px 2px #0000000d,0 12px 32px #0000000f}"
    "svg{width:3rem;height:3rem;color:var(--key)}"
    "h1{margin:.75rem 0 .5rem;font-size:1.5rem;line-height:1.25;letter-spacing:-.01em;text-wrap:balance}"
    "p{margin:0;color:var(--soft);text-wrap:pretty}form{margin:1.75rem 0 0}"
    "button{width:100%;min-height:3rem;padding:.75rem 1.25rem;border:0;border-radius:.625rem;cursor:pointer;"
    "background:var(--key);color:var(--on);font:inherit;font-weight:600}"
    "button:hover{filter:brightness(1.08)}button:active{filter:brightness(.94)}"
    "button:focus-visible{outline:3px solid var(--key);outline-offset:3px}"
    "@media(forced-colors:active){main,button{border:1px solid}}"
)
_ICONS: Final = {
    "mail": '<rect x="3" y="5" width="18" height="14" rx="2.5"/><path d="m4 7 8 6 8-6"/>',
    "done": '<circle cx="12" cy="12" r="9"/><path d="m8 12.5 2.7 2.7L16 9.5"/>',
    "lost": '<circle cx="12" cy="12" r="9"/><path d="M12 7.5v5.5M12 16.4v.1"/>',
}
_PAGE: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
    '<meta name="robots" content="noindex,nofollow"><title>{title}</title><style>{style}</style></head><body><main>'
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" '
    'stroke-linejoin="round" aria-hidden="true">{icon}</svg><h1>{title}</h1><p>{text}</p>{form}</main></body></html>'
)
_FORM: Final = (
    '<form method="post"><input type="hidden" name="{name}" value="{value}">'
    '<button type="submit">{label}</button></form>'
)


def _csp(style: str, form_action: str) -> str:
    """Return the Content-Security-Policy that allows this style, by its hash, and this source for forms."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action {form_action}; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


PAGE_CSP: Final = _csp(_STYLE, "'self'")
"""The Content-Security-Policy of pages with a form, which may post to our own origin alone."""
TRAP_CSP: Final = _csp(_STYLE, "'none'")
"""The Content-Security-Policy of the page behind hidden links, which has no form."""


def render_page(icon: str, title: str, text: str, button: str = "") -> bytes:
    """Return a page of UTF-8 HTML; `icon` is a key of `_ICONS`.

    With `button`, the page has a form with that label. It posts to the page's own URL the field that a mail program
    posts for one-click unsubscribe (RFC 8058).
    """
    name, value = ONE_CLICK_FIELD
    form = _FORM.format(name=name, value=value, label=escape(button)) if button else ""
    parts = {"title": escape(title), "text": escape(text), "icon": _ICONS[icon], "form": form, "style": _STYLE}
    return _PAGE.format(**parts).encode()


TRAP_PAGE: Final = render_page(
    "mail", "Nothing to see here", "This link is not meant for people. You can close this page."
)
