"""Small talk that the model is trained on: phrases, and the reply to each.

Questions that have nothing to do with the documents belong here, too; their reply is the refusal.
"""

from ragtune.answer.language_packs import ENGLISH

SMALL_TALK = (
    *((group.phrases, group.reply) for group in ENGLISH.small_talk),
    (ENGLISH.off_topic, ENGLISH.refusal),
)
"""Groups of phrases, each with its reply. Training draws a phrase by its place, so a new one changes the examples."""
