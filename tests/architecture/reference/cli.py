"""The command line, from the commands' own help."""

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Final

from pipeline.cli.main import COMMAND_PANELS, command
from tests.architecture.reference.markdown import paragraphs, table

_WORDS: Final[dict[Any, str]] = {int: "integer", float: "number", Path: "path"}


def part() -> str:
    group = command()
    sections = []
    for panel, names in COMMAND_PANELS.items():
        sections.append(f"## {panel}\n")
        sections += [text for name in names for text in _described(f"mailfold {name}", group.commands[name])]
    return "\n".join(sections)


def _described(path: str, found: Any) -> Iterator[str]:
    subcommands = getattr(found, "commands", None)
    arguments = [param for param in found.params if param.param_type_name == "argument"]
    usage = "".join(f" {_argument(param)}" for param in arguments)
    yield f"### `{path}{usage}`\n\n{paragraphs(found.help or '')}\n"
    rows = [_row(param) for param in found.params if param.name != "help"]
    if rows:
        yield table(("argument or option", "value", "default", "meaning"), rows)
    for name, subcommand in (subcommands or {}).items():
        yield from _described(f"{path} {name}", subcommand)


def _argument(param: Any) -> str:
    name = param.name.upper()
    shown = f"{name}…" if param.nargs == -1 else name
    return shown if param.required else f"[{shown}]"


def _row(param: Any) -> tuple[str, str, str, str]:
    is_argument = param.param_type_name == "argument"
    names = _argument(param) if is_argument else ", ".join((*param.opts, *param.secondary_opts))
    kind = "" if getattr(param, "is_flag", False) else _kind(param)
    meaning = getattr(param, "help", None) or ""
    if param.envvar:
        meaning += f" Environment: `{param.envvar}`."
    return f"`{names}`", kind, _default(param), meaning


def _kind(param: Any) -> str:
    found = param.type_descriptor.annotation
    if isinstance(found, type) and issubclass(found, Enum):
        kind = ", ".join(f"`{member.value}`" for member in found)
    else:
        kind = _WORDS.get(found, "text")
    bounds = f"{kind}, {param.min} to {param.max}" if param.max is not None else kind
    return (param.metavar or bounds) + (" (repeatable)" if param.multiple else "")


def _default(param: Any) -> str:
    if param.required:
        return "required"
    value = getattr(param, "show_default", None)
    value = value if isinstance(value, str) else param.default
    if value is None or value is False or value == "" or callable(value) or value == ():
        return ""
    return f"`{getattr(value, 'value', value)}`"
