"""Load the settings from environment variables and files, and write them for child processes.

Only `bootstrap`, `cli` and what starts roles call it.
"""

import json
import os
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsError

from pipeline.errors import InvalidSettings
from pipeline.settings import Settings

SECRET_FILE_MAX_CHARS: Final = 100_000
_SEE: Final = "docs/reference/settings.md lists every setting"


def load_settings(**overrides: Any) -> Settings:
    """Return the settings from this process's environment.

    Each secret ``X`` may be in a file that ``X_FILE`` names instead, as containers and vaults mount them. Raise
    InvalidSettings, naming each wrong variable and its problem.
    """
    try:
        return Settings(**_settings_from_files() | overrides)
    except ValidationError as error:
        raise InvalidSettings("\n".join(_explain(problem) for problem in error.errors())) from None
    except SettingsError as error:
        # A list that is not JSON; the message of pydantic names the field in quotation marks.
        name = next((name for name in Settings.model_fields if f'"{name}"' in str(error)), "")
        raise InvalidSettings(
            f"{environment_variable(name) if name else error}: not JSON, such as [60, 300] ({_SEE})"
        ) from None


def secret_settings() -> list[str]:
    """Return the names of the fields that are secret, and may therefore come from a file."""
    return [name for name, field in Settings.model_fields.items() if field.annotation is SecretStr]


def _settings_from_files() -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in secret_settings():
        variable = environment_variable(name)
        path = os.environ.get(f"{variable}_FILE", "")
        if not path:
            continue
        if os.environ.get(variable):
            raise InvalidSettings(f"{variable}_FILE: {variable} is set, too; unset one of them")
        values[name] = read_secret_file(Path(path), f"{variable}_FILE: ")
    return values


def read_secret_file(path: Path, where: str = "") -> str:
    """Return the text of a file with a secret, without blanks around it. Raise InvalidSettings, beginning ``where``."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(SECRET_FILE_MAX_CHARS + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InvalidSettings(f"{where}{path}: {reason}") from None
    if not text.strip() or len(text) > SECRET_FILE_MAX_CHARS:
        raise InvalidSettings(f"{where}{path}: empty, or more than {SECRET_FILE_MAX_CHARS} characters")
    return text.strip()


def environment_variable(name: str) -> str:
    """Return the environment variable of a field."""
    alias = Settings.model_fields[name].validation_alias
    return alias if isinstance(alias, str) else f"MAILFOLD_{name.upper()}"


def environment_of(settings: Settings) -> dict[str, str]:
    """Return the environment of a child process in which :func:`load_settings` returns the same settings."""
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    # A child inherits our environment, too, and a secret may have come from a file.
    no_files = {f"{environment_variable(name)}_FILE": "" for name in secret_settings()}
    return no_files | {environment_variable(name): _text(value) for name, value in values.items()}


def _text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, tuple | bool | int | float) else str(value)


def _explain(problem: Any) -> str:
    name = str(problem["loc"][0]).lower()
    variable = environment_variable(name) if name in Settings.model_fields else name
    return f"{variable}: {problem['msg']} ({_SEE})"
