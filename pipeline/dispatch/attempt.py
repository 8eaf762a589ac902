"""One job on its way through this room."""

from dataclasses import dataclass

from pipeline.admin import Brand
from pipeline.dispatch.routing.router import bound_provider
from pipeline.dispatch.routing.routes import BrandRouting
from pipeline.jobs.engine import Lease
from pipeline.jobs.job import Job
from topics.requests import SendRequest


@dataclass(frozen=True)
class SendAttempt:
    """What is being sent, how its brand's mail goes, and on whose lease."""

    job: Job
    lease: Lease
    request: SendRequest
    routing: BrandRouting

    @property
    def brand(self) -> Brand:
        """Whose mail it is."""
        return self.routing.brand

    @property
    def bound_provider(self) -> str:
        """The provider it goes to whatever happens; empty where there is a choice."""
        return bound_provider(self.job, self.routing) or ""
