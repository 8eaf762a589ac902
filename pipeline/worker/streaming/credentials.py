"""The security options of the Kafka clients in the form in which Faust takes them; `app` passes them to Faust."""

from typing import Any

from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials
from faust.types.auth import CredentialsT

from pipeline.runtime.kafka.security import security_options
from pipeline.settings import Settings


def broker_credentials(settings: Settings) -> CredentialsT | None:
    """Return Faust's credentials; None without security. Raises InvalidSettings.

    Faust derives the protocol from the context: SASL without one is SASL_PLAINTEXT, with one SASL_SSL.
    """
    options = security_options(settings)
    context: Any = options.get("ssl_context")
    if "sasl_oauth_token_provider" in options:
        return OAuthCredentials(oauth_cb=options["sasl_oauth_token_provider"], ssl_context=context)
    if "sasl_mechanism" in options:
        return SASLCredentials(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            mechanism=options["sasl_mechanism"],
            ssl_context=context,
        )
    return None if context is None else SSLCredentials(context)
