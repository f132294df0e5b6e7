"""Where an agent is and what for. The text of a place is stored with agents and runs."""

from typing import Literal

from attrs import evolve, frozen

Role = Literal[
    "whole",  # all of a user's work at this place
    "view",  # questions about runs and about none; never a run, so that nothing has to wait behind one
    "run",  # one run at a time
]


@frozen
class Place:
    """A host, and there the container of one image: for questions, or for the runs of one lane."""

    host: str
    role: Role = "whole"
    lane: int = 0
    image: str = ""

    def __str__(self) -> str:
        """`local`, or `host/view.0/image`."""
        return self.host if self.role == "whole" else f"{self.host}/{self.role}.{self.lane}/{self.image}"

    @property
    def for_questions(self) -> "Place":
        """Where is asked about what runs, or ran, here."""
        return self if self.role == "whole" else evolve(self, role="view", lane=0)


def parse(text: str) -> Place:
    """The place of a text that `str` made."""
    host, _, rest = text.partition("/")
    if not rest:
        return Place(host)
    post, _, image = rest.partition("/")
    role, _, lane = post.partition(".")
    return Place(host, "run" if role == "run" else "view", int(lane), image)
