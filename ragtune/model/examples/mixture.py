"""How often each idea is used in the training conversations."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Shares from 0 to 1, each with where its value comes from.

    They were chosen by hand; none was tuned or measured by itself. benchmarks/default_model/ measures models that
    were trained with all of them together.
    """

    removed: float = 0.08
    """Answerable pairs whose document is removed from the passages, so that the answer is the refusal.

    Chosen by hand; raised from 0.06 when small talk was added. See
    docs/decisions/unanswerable-in-every-split.md.
    """
    removed_how_to: float = 0.02
    """The same for questions of the kind `how_to`. Chosen by hand, not measured: several objects may do the job, so a
    refusal is often the wrong answer even if the pair's own document is missing."""
    removed_lines: float = 0.08
    """Answerable pairs of people of which only the sentences with the evidence are removed, so that near misses of the
    same document stay. Chosen by hand: with `missed` and the unanswerable questions about a sixth are refused."""
    missed: float = 0.2
    """Pairs of people whose evidence is in no line shown and that are kept as refusals. Chosen by hand."""
    styled: float = 0.25
    """Pairs that are tried in another style. Chosen by hand, not measured. See
    docs/decisions/styles-with-material.md."""
    unchanged_style: float = 0.25
    """Styled pairs that get a style which leaves the answer as it is. Chosen by hand, not measured."""
    shuffled: float = 0.5
    """Pairs whose passages are shuffled if the search found the right one, so that the model does not learn that the
    first passage is right. Chosen by hand, not measured."""
    follow_up: float = 0.12
    """Pairs that follow an earlier question about the same document. Chosen by hand; raised from 0.08 when short
    follow-ups were added, of which there must be enough to learn."""
    shortened: float = 0.6
    """Follow-ups that are shortened, among those that have a short form. Chosen by hand, not measured. See
    docs/decisions/short-follow-ups.md."""
    small_talk: float = 0.04
    """Pairs after which a turn of small talk is added. Chosen by hand; raised from 0.015 when questions that have
    nothing to do with the documents were added to small talk."""
    small_talk_later: float = 0.5
    """Small talk that comes after a question instead of at the beginning. Chosen by hand, not measured."""
    search_with_history: bool = True
    """Whether a follow-up is searched for together with the question before it, as in serving."""

    def removed_share(self, kind: str) -> float:
        """Return the share of answerable pairs of this kind whose document is removed."""
        return self.removed_how_to if kind == "how_to" else self.removed


DEFAULT = Mixture()
REPLAY = Mixture(shortened=0.0, small_talk=0.0, search_with_history=False)
"""For questions about something else: their passages are fixed and looked up by the exact words of the question."""
