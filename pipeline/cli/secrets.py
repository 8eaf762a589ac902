"""`mailfold secrets`: show the installation's secrets, replace one in two steps, and seal stored credentials anew.

See docs/how-to/rotate-secrets.md.
"""

from pathlib import Path
from secrets import token_urlsafe
from typing import Annotated, Final

import typer

from pipeline.admin.actions import ActionRecorder, OperatorChange
from pipeline.admin.sealing import CLEAR_TEXT, UNKNOWN_SOURCE, count_credentials, reseal_credentials
from pipeline.cli.context import (
    ReasonOption,
    command_settings,
    console,
    run_change_with_log,
    run_with_database,
    table,
)
from pipeline.errors import InvalidSettings
from pipeline.runtime.environment import read_secret_file
from pipeline.runtime.postgres.database import open_database
from pipeline.runtime.private_files import replace_file
from pipeline.runtime.secrets.secret_fingerprints import (
    SecretFingerprint,
    accept_secrets,
    fingerprints_of,
    known_fingerprints,
    secrets_problem,
)
from pipeline.runtime.secrets.secret_ring import ADDRESSES_ID, NamedSecret, SecretRing, parse_secrets, secret_ring
from pipeline.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Show and replace the secrets that sign tokens and seal credentials.")

SECRET_BYTES: Final = 48
"""Random bytes of a new secret: 64 characters."""

Counts = dict[str, int]


@app.command()
def status() -> None:
    """List this process's secrets: which one signs, and how many stored credentials each one sealed."""

    async def work(settings: Settings) -> tuple[SecretRing, Counts, list[SecretFingerprint]]:
        ring = secret_ring(settings)
        async with open_database(settings, size=1) as pool:
            return ring, await count_credentials(pool, ring), await known_fingerprints(pool)

    ring, counts, known = run_with_database(work)
    listing = table("id", "fingerprint", "use", "credentials")
    for place, secret in enumerate(ring.secrets):
        use = "verifies" if place else "signs, verifies"
        listing.add_row(secret.id, secret.fingerprint, use, str(counts.get(secret.id, 0)))
    listing.add_row("addresses", ring.address.fingerprint, "hashes addresses", "")
    console().print(listing)
    for name, meaning in ((CLEAR_TEXT, "public keys of earlier versions"), (UNKNOWN_SOURCE, "cannot be read")):
        if counts.get(name):
            console().print(f"{counts[name]} credentials {name}: {meaning}")
    in_hand = {secret.fingerprint for secret in (*ring.secrets, ring.address)}
    for fingerprint in known:
        if fingerprint.fingerprint not in in_hand:
            console().print(f"{fingerprint.fingerprint} was used for {fingerprint.purpose}, and is not in hand")
    if problem := secrets_problem(known, ring):
        console().print(f"Roles refuse to start: {problem}", soft_wrap=True)
        raise typer.Exit(1)


@app.command()
def rotate(
    file: Annotated[Path, typer.Argument(help="The file that MAILFOLD_SECRETS_FILE names; made if it is missing.")],
    reason: ReasonOption = "",
) -> None:
    """Replace the secret that signs, in two steps: run it twice, and restart every role after each.

    First a new secret is added that only verifies; the next call lets it sign. Old ones go on verifying until you
    delete them from the file. No secret is printed.
    """
    if file.exists():
        present = parse_secrets(read_secret_file(file))
    else:
        ring = secret_ring(command_settings())
        present = (NamedSecret(ADDRESSES_ID, ring.address.value), *ring.secrets)
    done, secrets_after = rotated(present, token_urlsafe(SECRET_BYTES))
    text = _text_of(secrets_after, file)
    before, after = _shown_ring(present), _shown_ring(secrets_after)

    async def write(_: Settings, actions: ActionRecorder) -> None:
        async with actions.recorded(
            OperatorChange("secrets.rotate", str(file), reason=reason, before=before, after=after)
        ):
            try:
                replace_file(file, text)
            except OSError as error:
                raise InvalidSettings(f"{file}: {error.strerror}") from None

    run_change_with_log(write)
    console().print(f"{done}. Restart every role with MAILFOLD_SECRETS_FILE={file}", soft_wrap=True)


@app.command()
def reseal(*, reason: ReasonOption = "") -> None:
    """Seal every stored credential under the secret that signs, so that older secrets can be deleted.

    Only once roles have started with that secret: others could not read the credentials any more.
    """

    async def work(settings: Settings, actions: ActionRecorder) -> int:
        ring = secret_ring(settings)
        async with open_database(settings, size=1) as pool:
            if not set(fingerprints_of(ring)) <= set(await known_fingerprints(pool)):
                raise InvalidSettings(
                    f"no role has started with {ring.signing.id} as the secret that signs; restart all"
                )
            change = OperatorChange("secrets.reseal", ring.signing.id, reason=reason, after=_shown_ring(ring.secrets))
            async with actions.recorded(change):
                return await reseal_credentials(pool, ring)

    console().print(f"{run_change_with_log(work)} credentials sealed under the present secret")


@app.command()
def accept(*, reason: ReasonOption = "") -> None:
    """Make this process's secrets those of the database, where the former ones are lost.

    Roles start again. What the lost secrets made stays broken: links and return paths of sent mail, stored credentials
    (add them again), and with another secret for addresses, suppressions that operators decided.
    """

    async def work(settings: Settings, actions: ActionRecorder) -> None:
        ring = secret_ring(settings)
        async with open_database(settings, size=1) as pool:
            before = {each.fingerprint: each.purpose for each in await known_fingerprints(pool)}
            after = _shown_ring((*ring.secrets, ring.address))
            async with actions.recorded(
                OperatorChange("secrets.accept", ring.signing.id, reason=reason, before=before, after=after)
            ):
                await accept_secrets(pool, ring)

    run_change_with_log(work)
    console().print("Roles start with these secrets from now on.")


def _text_of(secrets: tuple[NamedSecret, ...], file: Path) -> str:
    """Return the text of a file of secrets. Raise InvalidSettings where roles would refuse it."""
    text = "".join(f"{each.id}:{each.value}\n" for each in secrets)
    try:
        parse_secrets(text)
    except InvalidSettings as error:
        raise InvalidSettings(
            f"{file} is left as it is, because roles would refuse the next one: {error}. Delete secrets that are no "
            "longer needed; a secret with blanks or commas can't be listed and can only be given up"
        ) from None
    return text


def _shown_ring(secrets: tuple[NamedSecret, ...]) -> dict[str, str]:
    """Return the fingerprint of each secret by its id, in their order."""
    return {secret.id: secret.fingerprint for secret in secrets}


def rotated(present: tuple[NamedSecret, ...], new_value: str) -> tuple[str, tuple[NamedSecret, ...]]:
    """Return what the next step of a rotation does, and the secrets after it.

    A secret in second place whose id is the highest number waits to sign; otherwise a new one is put there.
    """
    ring = SecretRing(*present)
    addresses = NamedSecret(ADDRESSES_ID, ring.address.value)
    first, *others = ring.secrets
    highest = max((int(each.id) for each in ring.secrets if each.id.isdecimal()), default=0)
    if others and first.id != str(highest) == others[0].id:
        return f"{highest} signs from now on", (addresses, others[0], first, *others[1:])
    new = NamedSecret(str(highest + 1), new_value)
    return f"{new.id} was added and verifies; the next call lets it sign", (addresses, first, new, *others)
