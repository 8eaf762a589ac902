"""Render the pages that people see in a browser: a heading, a sentence and, optionally, a button.

The unsubscribe and tracking routes call it. A page has no script, loads nothing, and contains no address and no
part of the token. It works on every screen size, in light and dark mode, with screen readers and by keyboard.
"""

from html import escape
from typing import Final

from pipeline.content.unsubscribe import ONE_CLICK_FIELD
from pipeline.runtime.web.style import STYLE, STYLE_CSP_SOURCE

_ICONS: Final = {
    "mail": '<rect x="3" y="5" width="18" height="14" rx="2.5"/><path d="m4 7 8 6 8-6"/>',
    "done": '<circle cx="12" cy="12" r="9"/><path d="m8 12.5 2.7 2.7L16 9.5"/>',
    "lost": '<circle cx="12" cy="12" r="9"/><path d="M12 7.5v5.5M12 16.4v.1"/>',
}
_PAGE: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
    '<meta name="robots" content="noindex,nofollow"><title>{title}</title><style>{style}</style></head>'
    '<body class="notice"><main>'
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" '
    'stroke-linejoin="round" aria-hidden="true">{icon}</svg><h1>{title}</h1><p>{text}</p>{form}</main></body></html>'
)
_FORM: Final = (
    '<form method="post"><input type="hidden" name="{name}" value="{value}">'
    '<button type="submit">{label}</button></form>'
)


def _csp(form_action: str) -> str:
    """Return the Content-Security-Policy that allows the shared style, by its hash, and this source for forms."""
    return (
        f"default-src 'none'; style-src {STYLE_CSP_SOURCE}; form-action {form_action}; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


PAGE_CSP: Final = _csp("'self'")
"""The Content-Security-Policy of pages with a form, which may post to our own origin alone."""
TRAP_CSP: Final = _csp("'none'")
"""The Content-Security-Policy of the page behind hidden links, which has no form."""


def render_page(icon: str, title: str, text: str, button: str = "") -> bytes:
    """Return a page of UTF-8 HTML; `icon` is a key of `_ICONS`.

    With `button`, the page has a form with that label. It posts to the page's own URL the field that a mail program
    posts for one-click unsubscribe (RFC 8058).
    """
    name, value = ONE_CLICK_FIELD
    form = _FORM.format(name=name, value=value, label=escape(button)) if button else ""
    parts = {"title": escape(title), "text": escape(text), "icon": _ICONS[icon], "form": form, "style": STYLE}
    return _PAGE.format(**parts).encode()


TRAP_PAGE: Final = render_page(
    "mail", "Nothing to see here", "This link is not meant for people. You can close this page."
)
