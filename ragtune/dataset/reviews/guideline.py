"""The guideline for people who review pairs."""

GUIDELINE = """A model learns to answer as the pairs do. Ask three things:

1. **Would somebody ask this?** It may be short, misspelt or without a question mark, as people type. A question that
   nobody could have, or that cannot be understood, is rejected.
2. **Does the passage answer it?** The answer must stand in the passage, be right, and answer what was asked. What you
   know yourself does not count.
3. **Is it enough?** A short answer is fine, and so is a title at the end of the question ("... in Laser cutters").
   Half of what was asked is not, nor is a fragment that cannot be understood, nor the first sentence of a section if
   the whole section was asked for.

*Accept* if all three are yes. *Correct* if a few words put it right. *Reject* everything else; a reason in the comment
helps the person who writes the next pairs.

A pair without an answer teaches the model to refuse. Accept it if somebody could ask it and nothing in all the
documents answers it, not only in this passage; search them if you are not sure. Reject it if another document does.

Do not ask others: disagreement shows what is unclear.
"""
REASONS = (
    "nobody would ask this",
    "not to be understood alone",
    "not answered by the passage",
    "wrong",
    "incomplete",
)
"""What three readers of 100 pairs named again and again when they rejected one (benchmarks/studies). They were language
models, not people."""
