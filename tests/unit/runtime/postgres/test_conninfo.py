"""The connection strings that are made of the settings."""

import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from pipeline.errors import InvalidSettings
from pipeline.runtime.postgres.conninfo import is_behind_pooler, pooled_conninfo, session_conninfo, standby_conninfo
from pipeline.settings import Settings

HOSTS = "postgresql://mail:secret@one:5432,two:5433/mail"
TIMES = ("keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "connect_timeout")


def settings(**urls: str) -> Settings:
    return Settings().model_copy(update={name: SecretStr(url) for name, url in urls.items()})


def test_of_several_hosts_the_writable_one_is_wanted_and_a_vanished_one_is_noticed() -> None:
    parameters = conninfo_to_dict(pooled_conninfo(settings(database_url=HOSTS)))
    assert (parameters["host"], parameters["port"], parameters["password"]) == ("one,two", "5432,5433", "secret")
    assert parameters["target_session_attrs"] == "read-write"
    numbers = {name: int(str(parameters[name])) for name in TIMES}
    assert numbers["keepalives_idle"] + numbers["keepalives_interval"] * numbers["keepalives_count"] <= 20
    assert numbers["tcp_user_timeout"] <= 20_000
    assert numbers["connect_timeout"] <= 10


def test_parameters_of_the_url_win() -> None:
    url = f"{HOSTS}?target_session_attrs=any&connect_timeout=9&sslmode=verify-full"
    parameters = conninfo_to_dict(pooled_conninfo(settings(database_url=url)))
    assert parameters["target_session_attrs"] == "any"
    assert (parameters["connect_timeout"], parameters["sslmode"]) == ("9", "verify-full")


def test_a_session_goes_past_the_pooler_where_there_is_one() -> None:
    direct = settings(database_url=HOSTS)
    assert not is_behind_pooler(direct)
    assert session_conninfo(direct) == pooled_conninfo(direct)
    pooled = settings(database_url="postgresql://bouncer/mail", database_session_url=HOSTS)
    assert is_behind_pooler(pooled)
    assert conninfo_to_dict(session_conninfo(pooled))["host"] == "one,two"
    assert conninfo_to_dict(pooled_conninfo(pooled))["host"] == "bouncer"


def test_a_standby_need_not_be_writable() -> None:
    assert standby_conninfo(settings(database_url=HOSTS)) is None
    conninfo = standby_conninfo(settings(database_url=HOSTS, database_read_url="postgresql://three/mail"))
    assert conninfo is not None
    assert conninfo_to_dict(conninfo)["host"] == "three"
    assert "target_session_attrs" not in conninfo


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("database_url", "DATABASE_URL"),
        ("database_session_url", "DATABASE_SESSION_URL"),
        ("database_read_url", "DATABASE_READ_URL"),
    ],
)
def test_an_invalid_url_is_named_and_not_repeated(field: str, name: str) -> None:
    wrong = settings(**{"database_url": HOSTS, field: "mysql://mail:secret@one/mail"})
    with pytest.raises(InvalidSettings) as caught:
        _ = pooled_conninfo(wrong), session_conninfo(wrong), standby_conninfo(wrong)
    assert str(caught.value).startswith(f"{name}: not a libpq URL")
    assert "secret" not in str(caught.value)


def test_a_missing_url_is_named() -> None:
    with pytest.raises(InvalidSettings, match="DATABASE_URL: missing"):
        session_conninfo(Settings(database_url=SecretStr("")))
