"""Every command and route that changes what an operator decides does so inside `ActionRecorder.recorded`."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from pipeline.admin import KeyScope
from pipeline.cli.main import app
from pipeline.gateway.route_scopes import ROUTE_SCOPES, SESSION_ROUTES
from tests.architecture.repository import ROOT

RECORDED: Final = "recorded"
READING_COMMANDS: Final = {
    *("actions list", "actions show", "brands dns", "brands list", "dead list", "dead show", "destinations list"),
    *(
        "doctor",
        "export",
        "keys list",
        "lanes list",
        "providers check",
        "providers list",
        "secrets status",
        "settings",
        "analytics list",
        "stats",
        "status",
    ),
    *(
        "suppressions export",
        "suppressions list",
        "suppressions show",
        "templates list",
        "templates localizations show",
    ),
    *("templates render", "templates show", "tenants list", "tenants show", "topics acls", "topics check", "trace"),
    # DNS verifies a domain, and no operator.
    *("domains list", "domains verify"),
}
OTHER_COMMANDS: Final = {
    # Roles and stand-ins for development.
    *("demo", "dispatch", "emit", "gateway", "project", "receiver", "sandbox", "up", "worker"),
    # They append mail, and decide nothing.
    "inbound maildir",
    # They make, save or remake an installation, and run where no topic may be there yet.
    *("backup", "migrate", "rebuild", "restore", "topics create", "upgrade finish"),
}
CHANGING_SCOPES: Final = {KeyScope.SUPPRESSIONS_WRITE, KeyScope.TEMPLATES_WRITE, KeyScope.OPERATE, KeyScope.ADMIN}
CHANGING_CALLS: Final = {
    *("add_tenant", "add_key", "rotate_key", "revoke_key", "add_provider", "rotate_webhook_key"),
    *("end_old_webhook_keys", "add_brand", "set_routes", "set_dkim", "add_destination", "pause_lane", "resume_lanes"),
    *("suppress_many", "lift", "push_template", "skip_record", "replace_file", "accept_secrets"),
    *("reseal_credentials", "run_recovery", "replay", "suspend_tenant", "resume_tenant", "delete_tenant"),
    *("add_sender_domain", "remove_sender_domain", "require_verified_senders"),
}
"""The functions that make a change; a command may call them only inside the block, or in one that the block calls."""


def _commands(group: typer.Typer, prefix: str) -> Iterator[tuple[str, Any]]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield f"{prefix}{command.name or command.callback.__name__}", command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        name = inner.name if isinstance(inner.name, str) else ""
        yield from _commands(inner.typer_instance, f"{prefix}{name} " if name else prefix)


def callbacks() -> dict[str, Any]:
    return dict(_commands(app, ""))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions_of(tree: ast.Module) -> dict[str, ast.AST]:
    """Return a module's functions by name, without those inside others, which are part of these."""
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def names_in(node: ast.AST) -> set[str]:
    """Return the names that a piece of code mentions, as names or as attributes."""
    names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return names | {inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}


def reached_names(tree: ast.Module, start: ast.AST) -> set[str]:
    """Return the names that a function mentions, and those of the functions of its module that it mentions."""
    functions, reached = functions_of(tree), names_in(start)
    waiting = set(reached)
    while waiting:
        name = waiting.pop()
        more = names_in(functions[name]) - reached if name in functions else set()
        reached |= more
        waiting |= more
    return reached


def names_of_command(words: str) -> set[str]:
    callback = callbacks()[words]
    tree = tree_of(Path(callback.__code__.co_filename))
    return reached_names(tree, functions_of(tree)[callback.__name__])


def changing_commands() -> list[str]:
    return sorted(callbacks().keys() - READING_COMMANDS - OTHER_COMMANDS)


def test_named_commands_exist() -> None:
    """A command that is renamed must not stay in a list of those that change nothing."""
    assert callbacks().keys() >= READING_COMMANDS | OTHER_COMMANDS


@pytest.mark.parametrize("words", changing_commands())
def test_every_other_command_records_its_change(words: str) -> None:
    assert RECORDED in names_of_command(words), (
        f"`mailfold {words}` is in no list here and records nothing: use run_change"
    )


@pytest.mark.parametrize("words", sorted(READING_COMMANDS))
def test_reading_command_calls_nothing_that_changes(words: str) -> None:
    assert not names_of_command(words) & CHANGING_CALLS


# `up` makes a tenant and a provider for development, which no operator decided.
MODULES: Final = sorted(path for path in (ROOT / "pipeline" / "cli").glob("*.py") if path.stem != "up")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_commands_change_only_inside_recorded_blocks(path: Path) -> None:
    assert list(_unrecorded_calls(tree_of(path))) == []


def _unrecorded_calls(tree: ast.AST) -> Iterator[str]:
    """Yield the changing calls of a module that are in no block of `recorded`, nor in what a recorder is handed."""
    inside = {
        inner
        for block in ast.walk(tree)
        if isinstance(block, ast.AsyncWith) and RECORDED in names_in(block.items[0].context_expr)
        for statement in block.body
        for inner in ast.walk(statement)
    }
    handed = {
        inner
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "_change"
        for argument in call.args
        for inner in ast.walk(argument)
    }
    handed |= {
        inner
        for function in ast.walk(tree)
        if isinstance(function, ast.AsyncFunctionDef) and function.name == "make"
        for inner in ast.walk(function)
    }
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and call not in inside | handed and _called_name(call) in CHANGING_CALLS:
            yield f"line {call.lineno}: {_called_name(call)}"


def _called_name(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


CHANGING_ROUTES: Final = sorted(
    (method, path)
    for (method, path), scopes in (ROUTE_SCOPES | SESSION_ROUTES).items()
    if method != "GET" and CHANGING_SCOPES & set(scopes)
)


@pytest.mark.parametrize(("method", "path"), CHANGING_ROUTES, ids=lambda part: part.strip("/"))
def test_every_changing_route_records_its_change(method: str, path: str) -> None:
    """The endpoint, or a function of the gateway that it calls, has the block."""
    [endpoint] = list(_endpoints(method.lower(), path))
    assert RECORDED in endpoint, f"{method} {path} changes something and records nothing: use GatewayState.actions_of"


def _endpoints(method: str, path: str) -> Iterator[set[str]]:
    """Yield the names that the endpoint of a route reaches, in its own module and in the templates' module."""
    folder = ROOT / "pipeline" / "gateway"
    templates = tree_of(folder / "routes" / "templates.py")
    for module in folder.rglob("*.py"):
        tree = tree_of(module)
        for function in ast.walk(tree):
            if any(_is_route(decorator, method, path) for decorator in getattr(function, "decorator_list", ())):
                names = reached_names(tree, function)
                shared = reached_names(templates, functions_of(templates)["push_draft"])
                yield names | shared if "push_draft" in names else names


def _is_route(decorator: ast.expr, method: str, path: str) -> bool:
    return (
        isinstance(decorator, ast.Call)
        and _called_name(decorator) == method
        and any(isinstance(argument, ast.Constant) and argument.value == path for argument in decorator.args)
    )


def test_changing_call_outside_the_block_is_found() -> None:
    inside = ast.parse("async def f(a):\n async with a.recorded(c):\n  await admin.add_tenant(p)")
    outside = ast.parse("async def f(a):\n async with a.recorded(c):\n  pass\n await admin.add_tenant(p)")
    assert list(_unrecorded_calls(inside)) == []
    assert list(_unrecorded_calls(outside)) == ["line 4: add_tenant"]
