"""One job on its way through this room."""

from dataclasses import dataclass

from pipeline.admin import Brand
from pipeline.dispatch.routing.router import bound_to
from pipeline.dispatch.routing.routes import Way
from pipeline.jobs.engine import Lease
from pipeline.jobs.job import Job
from topics.requests import SendRequest


@dataclass(frozen=True)
class Attempt:
    """What is being sent, how its brand's mail goes, and on whose lease."""

    job: Job
    lease: Lease
    request: SendRequest
    way: Way

    @property
    def brand(self) -> Brand:
        """Whose mail it is."""
        return self.way.brand

    @property
    def bound(self) -> str:
        """The provider it goes to whatever happens; empty where there is a choice."""
        return bound_to(self.job, self.way) or ""
