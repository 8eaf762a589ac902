"""Secrets can be replaced one by one: what an earlier one signed or sealed stays valid while it is in the ring."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from pipeline.cli.secrets import rotate, rotated
from pipeline.content import tokens
from pipeline.errors import InvalidSettings, InvalidSignatureError
from pipeline.runtime.environment import environment_of, environment_variable, load_settings, secret_settings
from pipeline.runtime.secrets.secret_ring import NamedSecret, SecretRing, parse_secrets, secret_ring
from pipeline.runtime.secrets.signing import AddressHasher, Signer, hash_address, is_sealed_under, seal, unseal
from pipeline.settings import Settings
from topics.record import EmailId

EMAIL_ID = EmailId("0e5a0f0c-9f5b-5c0e-8d1a-3a52b1e1a001")
A, B, C = ("a" * 32, "b" * 40, "c" * 50)


def settings(**values: str) -> Settings:
    return Settings().model_copy(update={name: SecretStr(value) for name, value in values.items()})


def text_of(secrets: tuple[NamedSecret, ...]) -> str:
    return "\n".join(f"{each.id}:{each.value}" for each in secrets)


def test_first_secret_signs_and_every_secret_verifies() -> None:
    token = tokens.pixel_token(Signer(SecretRing.of(A), "track"), EMAIL_ID)
    assert tokens.read_pixel_token(Signer(SecretRing.of(B, A), "track"), token) == EMAIL_ID
    assert tokens.pixel_token(Signer(SecretRing.of(B, A), "track"), EMAIL_ID) != token
    with pytest.raises(InvalidSignatureError):
        tokens.read_pixel_token(Signer(SecretRing.of(B), "track"), token)


def test_purposes_share_no_key_whatever_the_secret() -> None:
    token = tokens.pixel_token(Signer(SecretRing.of(A), "track"), EMAIL_ID)
    with pytest.raises(InvalidSignatureError):
        tokens.read_pixel_token(Signer(SecretRing.of(B, A), "cursor"), token)


def test_sealed_credential_is_read_under_any_secret_and_sealed_under_the_first() -> None:
    sealed = seal(SecretRing.of(A), "their-key")
    assert unseal(SecretRing.of(B, A), sealed) == "their-key"
    assert is_sealed_under(B, seal(SecretRing.of(B, A), "their-key"))
    with pytest.raises(InvalidSettings, match="sealed under another secret"):
        unseal(SecretRing.of(B), sealed)


def test_older_form_keeps_its_hashes_and_its_signatures() -> None:
    ring = secret_ring(settings(secret=A, secret_previous=B))
    assert (ring.values, ring.address.value) == ((A, B), A)
    # Hashes and tags as version 0.1 made them: they are in databases and in sent mail.
    assert hash_address(AddressHasher(ring), "Anna@Example.com").hex() == (
        "54b50b2323a31161b622dbec9eb0939fec2b393989d722c56ea57867bd1f1ad9"
    )
    assert tokens.pixel_token(Signer(ring, "track"), EMAIL_ID) == "zBqca3bvcuNLST3-6tXYCA5aDwyfW1wOjRo6UrHhoAE"


def test_listed_secrets_replace_the_older_form() -> None:
    ring = secret_ring(settings(secrets=f"addresses:{A}, 2:{B}\n1:{A}"))
    assert (ring.values, ring.address.value, ring.signing.id) == ((B, A), A, "2")
    assert repr(ring) == "SecretRing(2, 1)"
    with pytest.raises(InvalidSettings, match="list them in it"):
        secret_ring(settings(secrets=f"1:{A}", secret=A))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (A, "entry 1 is not id:secret"),
        (f"1:{A} 2 :{B}", "entry 2 is not"),
        ("1:short", "entry 1 .1.: at least 32 characters"),
        (f"1:{A} 1:{B} addresses:{A}", "same id"),
        (f"1:{A} 2:{A} addresses:{A}", "the same one twice"),
        (f"addresses:{A}", "no secret that signs"),
        (f"1:{A} 2:{B}", "need an entry addresses"),
        (" ".join(f"{number}:{number:050}" for number in range(9)), "at most 8"),
    ],
)
def test_wrong_list_is_refused_without_showing_a_secret(text: str, problem: str) -> None:
    with pytest.raises(InvalidSettings, match=problem) as refused:
        secret_ring(settings(secrets=text))
    assert not any(value in str(refused.value) for value in (A, B, "short"))


@given(st.integers(0, 12), st.data())
def test_no_step_of_any_rotation_loses_a_token_or_a_hash(steps: int, data: st.DataObject) -> None:
    secrets = parse_secrets(f"1:{A}")
    issued: list[tuple[str, str]] = []
    hashed = hash_address(AddressHasher(SecretRing(*secrets)), "anna@example.com")
    for step in range(steps):
        before = SecretRing(*secrets)
        _, secrets = rotated(secrets, f"{step:040}")
        after = SecretRing(*parse_secrets(text_of(secrets)))
        # Processes of both steps run side by side during a restart: each reads what the other signs.
        for signing, reading in ((before, after), (after, before)):
            token = tokens.pixel_token(Signer(signing, "track"), EMAIL_ID)
            assert tokens.read_pixel_token(Signer(reading, "track"), token) == EMAIL_ID
            issued.append((signing.signing.value, token))
        assert hash_address(AddressHasher(after), "anna@example.com") == hashed
        if len(after.secrets) > 2 and data.draw(st.booleans()):
            secrets = secrets[:-1]  # the operator deletes the oldest one
    ring = SecretRing(*secrets)
    for value, token in issued:
        if value in ring.values:
            assert tokens.read_pixel_token(Signer(ring, "track"), token) == EMAIL_ID
        else:
            with pytest.raises(InvalidSignatureError):
                tokens.read_pixel_token(Signer(ring, "track"), token)


def test_rotation_adds_a_secret_that_verifies_and_then_lets_it_sign() -> None:
    said, once = rotated((NamedSecret("present", A),), B)
    assert "added and verifies" in said
    assert [each.id for each in once] == ["addresses", "present", "1"]
    said, twice = rotated(once, C)
    assert "1 signs" in said
    assert [each.id for each in twice] == ["addresses", "1", "present"]
    assert [each.id for each in rotated(twice, C)[1]] == ["addresses", "1", "2", "present"]


def test_every_secret_may_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in secret_settings():
        path = tmp_path / name
        path.write_text(f"{name} from a file\n")
        monkeypatch.setenv(f"{environment_variable(name)}_FILE", str(path))
    loaded = load_settings()
    assert {name: getattr(loaded, name).get_secret_value() for name in secret_settings()} == {
        name: f"{name} from a file" for name in secret_settings()
    }


def test_file_that_cannot_be_read_or_is_named_twice_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILFOLD_SECRET_FILE", str(tmp_path / "missing"))
    with pytest.raises(InvalidSettings, match=r"MAILFOLD_SECRET_FILE: .*missing: No such file"):
        load_settings()
    (tmp_path / "missing").write_text("  \n")
    with pytest.raises(InvalidSettings, match="empty"):
        load_settings()
    (tmp_path / "missing").write_bytes(b"\xff")
    with pytest.raises(InvalidSettings, match="not UTF-8"):
        load_settings()
    monkeypatch.setenv("MAILFOLD_SECRET", A)
    with pytest.raises(InvalidSettings, match="unset one of them"):
        load_settings()


def test_child_takes_a_secret_from_our_environment_though_it_came_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secrets").write_text(f"1:{A}")
    monkeypatch.setenv("MAILFOLD_SECRETS_FILE", str(tmp_path / "secrets"))
    loaded = load_settings()
    for variable, value in environment_of(loaded).items():
        monkeypatch.setenv(variable, value)
    assert load_settings().secrets.get_secret_value() == f"1:{A}"


def test_file_that_roles_would_refuse_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    full = f"addresses:{A}\n" + "\n".join(f"{number}:{number:040}" for number in range(7, 0, -1))
    file.write_text(full)
    with pytest.raises(InvalidSettings, match="Delete secrets"):
        rotate(file)
    assert file.read_text() == full
