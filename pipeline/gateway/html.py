"""What people read in a browser: a heading, a sentence, perhaps a button in; a whole page out.

No script, nothing from elsewhere, no address, nothing of the token; readable on every screen, light
or dark, by eye, ear and keyboard. Pure.
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


def _csp(form: str) -> str:
    rest = "base-uri 'none'; frame-ancestors 'none'"
    return f"default-src 'none'; style-src {STYLE_CSP_SOURCE}; form-action {form}; {rest}"


PAGE_CSP: Final = _csp("'self'")
"""Only its own style, by its hash, and a form that goes nowhere else."""
TRAP_CSP: Final = _csp("'none'")


def render_page(icon: str, title: str, text: str, button: str = "") -> bytes:
    """A page; with ``button`` one that posts what a mail program's one click posts, to where the page came from."""
    name, value = ONE_CLICK_FIELD
    form = _FORM.format(name=name, value=value, label=escape(button)) if button else ""
    filled = {"title": escape(title), "text": escape(text), "icon": _ICONS[icon], "form": form, "style": STYLE}
    return _PAGE.format(**filled).encode()


TRAP_PAGE: Final = render_page(
    "mail", "Nothing to see here", "This link is not meant for people. You can close this page."
)
