"""Small talk: what people say besides questions about the documents, and the reply that the model is trained on.

Questions that have nothing to do with the documents belong here, too; their reply is the refusal.
"""

from ragtune.answer.prompt import REFUSAL

SMALL_TALK = (
    (
        ("Hello", "hi", "hello there", "Hey!", "Good morning", "good evening", "Hi, are you there?"),
        "Hello! What would you like to know about the documents?",
    ),
    (
        ("Thanks", "thank you", "Thank you very much!", "great, thanks", "thx", "Perfect, thank you."),
        "You are welcome.",
    ),
    (
        ("Who are you?", "what are you", "Are you a bot?", "who am i talking to", "What is your name?"),
        "I am an assistant that answers questions from these documents and cites their passages.",
    ),
    (
        ("What can you do?", "what are you able to do", "What can I ask you?", "How can you help me?"),
        "Ask me about anything in the documents. I answer from their passages and say which ones.",
    ),
    (
        ("How are you?", "how is it going", "how are you today?"),
        "I am ready for your question. What would you like to know about the documents?",
    ),
    (("Bye", "goodbye", "see you", "that was all"), "Goodbye."),
    (("ok", "I see.", "Good.", "got it", "that makes sense"), "Good. Ask me again whenever you like."),
    (
        (
            "What is the capital of Spain?",
            "who wrote Hamlet",
            "How tall is Mount Everest?",
            "what is 7 times 8",
            "Who is the president of Brazil?",
            "tell me a joke",
            "Will it rain tomorrow?",
            "what is the best football team",
            "Translate 'good night' into German.",
            "Who painted the Mona Lisa?",
            "how many planets are there",
            "When did the second world war end?",
        ),
        REFUSAL,
    ),
)
"""Groups of phrases, each with its reply. Training draws a phrase by its place, so a new one changes the examples."""
REPLIES = frozenset(reply for _, reply in SMALL_TALK)
