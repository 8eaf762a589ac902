"""The metadata that our messages carry and providers repeat: the email's id and its tag."""

from pipeline.content.tokens import echo_tag
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.runtime.secrets.signing import Signer
from pipeline.webhooks.base import EMAIL_ID_KEY, EMAIL_TAG_KEY
from tests.conftest import RING
from topics.record import EmailId


def echoed(email_id: EmailId | str, ring: SecretRing = RING) -> dict[str, str]:
    """Return the metadata of an email, with the tag that this ring's first secret makes."""
    return {EMAIL_ID_KEY: email_id, EMAIL_TAG_KEY: echo_tag(Signer(ring, "echo"), EmailId(email_id))}
