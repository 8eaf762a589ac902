"""`mailfold settings`: print every setting as the page docs/reference/settings.md."""

from typing import Any

import typer
from pydantic import SecretStr

from pipeline.runtime.environment import environment_variable
from pipeline.settings import Settings

app = typer.Typer()

_INTRO = """\
# Settings

Every setting is an environment variable. `mailfold settings` prints this page; a test checks that the two are equal.
A secret `X` may be in a file instead, which `X_FILE` names ([Rotate the secrets](../how-to/rotate-secrets.md)).
Tenants, keys, providers, brands and destinations are not settings: operators configure them with commands,
see `mailfold --help`.

| variable | default | meaning |
|---|---|---|
"""


@app.command()
def settings() -> None:
    """Print every setting, its default and its meaning (Markdown)."""
    typer.echo(settings_page(), nl=False)


def settings_page() -> str:
    """Return the text of docs/reference/settings.md."""
    rows = (
        f"| `{environment_variable(name)}` | {_default(field)} | {field.description} |" for name, field in _fields()
    )
    return _INTRO + "\n".join(rows) + "\n"


def _fields() -> list[tuple[str, Any]]:
    return list(Settings.model_fields.items())


def _default(field: Any) -> str:
    value = field.default
    if isinstance(value, SecretStr) or value == "":
        return ""
    if isinstance(value, tuple):
        return f"`[{', '.join(f'{part:g}' for part in value)}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
