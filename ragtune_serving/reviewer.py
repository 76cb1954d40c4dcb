"""Somebody who reviews pairs, and which verdicts of others they may see without being led by them."""

from collections.abc import Mapping
from dataclasses import dataclass

from ragtune.dataset.reviews.decisions import Decision
from ragtune.dataset.reviews.outcome import winning_decision


@dataclass(frozen=True, slots=True)
class Reviewer:
    """A reviewer, who is blind to the verdicts of others on every pair that they could still judge.

    `leads` says that the role includes everybody's progress. `left` counts the pairs that are assigned to the reviewer
    and that they have not decided yet.
    """

    name: str
    leads: bool
    left: int

    @property
    def settles(self) -> bool:
        """Whether the reviewer may read the verdicts of a conflict without having judged the pair: nothing is left."""
        return self.leads and not self.left

    def may_see(self, verdicts: Mapping[str, Decision], needed: int) -> bool:
        """Return whether the reviewer sees what others said about a pair.

        Nobody sees anything before the pair has the verdicts that it needs: a verdict could follow another until then.
        After that, those see it who have judged the pair, and in a conflict also those who settle it.
        """
        if len(verdicts) < needed:
            return False
        return self.name in verdicts or (self.settles and winning_decision(verdicts.values(), needed) is None)
