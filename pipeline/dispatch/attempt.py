"""The state of one attempt to send an email, passed between the modules of the dispatcher."""

from dataclasses import dataclass

from pipeline.admin import Brand
from pipeline.dispatch.routing.router import bound_provider
from pipeline.dispatch.routing.routes import BrandRouting
from pipeline.jobs.engine import Lease
from pipeline.jobs.job import Job
from topics.requests import SendRequest


@dataclass(frozen=True)
class SendAttempt:
    """One attempt to send one email: the job, its lease, the request and the routing of its brand."""

    job: Job
    lease: Lease
    request: SendRequest
    routing: BrandRouting

    @property
    def brand(self) -> Brand:
        """Return the brand that sends the email."""
        return self.routing.brand

    @property
    def bound_provider(self) -> str:
        """Return the only provider that may get the email; an empty string if there is a choice."""
        return bound_provider(self.job, self.routing) or ""
