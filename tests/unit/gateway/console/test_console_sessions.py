"""Cookies, form tokens and the check that a form is from our own page."""

import pytest
from fastapi import Request, Response

from pipeline.gateway.console.console_route import path_after_sign_in
from pipeline.gateway.console.sessions import (
    SESSION_COOKIE,
    form_token,
    is_loopback,
    new_cookie,
    read_cookie,
    require_form_token,
    require_own_page,
    set_cookie,
)
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.route_scopes import SESSION_ROUTES


def asked(host: str = "127.0.0.1:8025", **headers: str) -> Request:
    named = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/console",
        "query_string": b"",
        "scheme": "http",
        "server": ("127.0.0.1", 8025),
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }
    return Request(scope)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1:8025", True),
        ("localhost:8025", True),
        ("[::1]:8025", True),
        ("mailfold.localhost", True),
        ("mail.example.com", False),
        ("10.0.0.7:8025", False),
        ("127.0.0.1.example.com", False),
        ("localhost.example.com", False),
    ],
)
def test_cookie_needs_tls_away_from_this_machine(host: str, *, is_local: bool) -> None:
    request, response = asked(host), Response()
    assert is_loopback(request) is is_local
    set_cookie(request, response, SESSION_COOKIE, "value")
    cookie = response.headers["set-cookie"]
    assert ("; Secure" in cookie) is not is_local
    assert cookie.startswith("__Host-") is not is_local
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


def test_cookie_behind_a_proxy_needs_tls_whatever_the_host() -> None:
    assert not is_loopback(asked("localhost", x_forwarded_for="203.0.113.7"))


def test_cookie_of_another_name_is_not_read() -> None:
    assert read_cookie(asked("mail.example.com", cookie=f"{SESSION_COOKIE}=planted"), SESSION_COOKIE) == ""
    assert read_cookie(asked("mail.example.com", cookie=f"__Host-{SESSION_COOKIE}=own"), SESSION_COOKIE) == "own"
    assert read_cookie(asked(cookie=f"{SESSION_COOKIE}={'x' * 101}"), SESSION_COOKIE) == ""


def test_form_token_belongs_to_one_cookie() -> None:
    cookie = new_cookie()
    require_form_token(cookie, form_token(cookie))
    for other in ("", form_token(new_cookie()), "\ud800", form_token(cookie)[:-1]):
        with pytest.raises(HttpProblem):
            require_form_token(cookie, other)
    with pytest.raises(HttpProblem):
        require_form_token("", form_token(""))


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8025"},
        {},
    ],
)
def test_form_of_our_own_page_is_taken(headers: dict[str, str]) -> None:
    require_own_page(asked(**headers))


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "origin": "http://127.0.0.1:8025"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:8026"},
    ],
)
def test_form_of_another_site_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(HttpProblem):
        require_own_page(asked(**headers))


@pytest.mark.parametrize("wanted", ["/console", "/console/emails?status=sent", "/console/lanes"])
def test_sign_in_leads_to_the_page_that_was_asked_for(wanted: str) -> None:
    assert path_after_sign_in(wanted) == wanted


@pytest.mark.parametrize(
    "wanted",
    [
        "",
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/console//evil.example",
        "/console/\\evil.example",
        "/console\t/x",
        "/console/\nSet-Cookie: a=b",
        "/consolex",
        "/docs",
        "javascript:alert(1)",
        "/console/sign-in",
        "/console/é",
        "\\\\evil.example",
        "/console/../c/token",
        "/console/%2e%2e/c/token",
        "/console/.%2E/c/token",
        "/console/%252e%252e/c/token",
        "/console/./../c/token",
        "/console/..",
        "/console/%5cevil.example",
        "/console?a=\\b",
        "/console/lanes\n",
        "/console/lanes?a=\x7f",
        "/console#/../c/token",
    ],
)
def test_sign_in_leads_to_no_other_place(wanted: str) -> None:
    assert path_after_sign_in(wanted) == "/console"


def test_action_needs_the_scopes_of_the_page_that_answers_it() -> None:
    for (method, path), scopes in SESSION_ROUTES.items():
        page = SESSION_ROUTES["GET", "/".join(path.split("/")[:3]) if path.count("/") > 2 else "/console"]
        assert set(page) <= set(scopes), (method, path)
