"""Question wordings per kind of fact, and how an object is named in a question.

The wording of a fact is chosen by a seeded hash of the fact itself, so that adding
documents changes no question that was written before.
"""

import hashlib
import re
from collections.abc import Sequence

FUNCTION, CLASS, VALUE = "function", "class", "value"

WORDINGS: dict[str, tuple[str, ...]] = {
    "purpose.does": (
        "What does {s} do?",
        "What is {s} used for?",
        "What is the purpose of {s}?",
        "Could you tell me what {s} does?",
        "Can you explain what {s} does?",
        "In one sentence, what does {s} do?",
        "What would I use {s} for?",
        "Which task does {s} carry out?",
        "What is {s} good for?",
        "Tell me what {s} does.",
        "I came across {s}. What does it do?",
        "What is the {noun} {s} meant to do?",
        "Describe what {s} does.",
    ),
    "purpose.serves": (
        "What does the {noun} {s} do?",
        "What is {s} used for?",
        "What is the purpose of {s}?",
        "What is the {noun} {s} for?",
        "What is {s} good for?",
        "Can you explain what {s} is for?",
        "What would I use {s} for?",
        "How is {s} described?",
        "Tell me what {s} is for.",
    ),
    "purpose.is": (
        "What is {s}?",
        "What is the {noun} {s} for?",
        "What does {s} represent?",
        "How is {s} described?",
        "What is the purpose of the {noun} {s}?",
        "Can you explain what {s} is?",
        "In one sentence, what is {s}?",
        "What would I use the {noun} {s} for?",
        "Describe {s} briefly.",
        "I came across {s}. What is it?",
        "What do I need to know about {s}?",
        "Tell me what {s} is.",
    ),
    "purpose.value": (
        "What does {s} hold?",
        "What is {s}?",
        "What does the {noun} {s} stand for?",
        "What is stored in {s}?",
        "What is the meaning of {s}?",
        "What do I get when I read {s}?",
        "Can you explain the {noun} {s}?",
        "What is the {noun} {s} for?",
    ),
    "parameter": (
        "What does the {d} parameter of {s} mean?",
        "What is the {d} argument of {s} for?",
        "What should I pass as {d} to {s}?",
        "How is the parameter {d} of {s} described?",
        "In {s}, what does {d} control?",
        "What does {d} do in {s}?",
        "When calling {s}, what is {d}?",
        "Can you explain the {d} option of {s}?",
        "What is the role of {d} in {s}?",
        "What does {s} use {d} for?",
        "What do I set with {d} in {s}?",
        "What is {d} in {s}?",
    ),
    "default": (
        "What is the default value of {d} in {s}?",
        "What does {d} default to in {s}?",
        "Which value does {s} use for {d} when I leave it out?",
        "If I do not pass {d} to {s}, what value is used?",
        "What is the default of the {d} argument of {s}?",
        "When {d} is omitted, what does {s} assume for it?",
        "How is {d} set by default in {s}?",
        "Which default does {s} give to {d}?",
    ),
    "type": (
        "What type does {s} expect for {d}?",
        "Which type is the {d} parameter of {s}?",
        "What is the type of {d} in {s}?",
        "What kind of value does {d} of {s} take?",
        "Which type should I pass as {d} to {s}?",
        "How is {d} typed in {s}?",
        "What data type does the {d} argument of {s} have?",
        "Of which type must {d} be when I call {s}?",
    ),
    "returns": (
        "What does {s} return?",
        "What is the return value of {s}?",
        "What do I get back from {s}?",
        "What is the result of calling {s}?",
        "What comes back when I call {s}?",
        "Which value does {s} give back?",
        "What does a call to {s} produce?",
        "How is the return value of {s} described?",
        "What kind of result should I expect from {s}?",
        "Describe what {s} returns.",
    ),
    "returns.type": (
        "What type does {s} return?",
        "Of which type is the return value of {s}?",
        "What is the return type of {s}?",
        "Which type of object does {s} give back?",
        "What is the type of the result of {s}?",
        "Which type do I get when I call {s}?",
        "How is the return value of {s} typed?",
        "What type of value comes back from {s}?",
    ),
    "returns.value": (
        "What type is {s}?",
        "Of which type is the {noun} {s}?",
        "What is the type of {s}?",
        "Which type do I get when I read {s}?",
        "How is the {noun} {s} typed?",
        "Which type of value does {s} hold?",
        "What type of object is behind the {noun} {s}?",
    ),
    "raises.when": (
        "When does {s} raise {d}?",
        "Why would {s} raise {d}?",
        "Under which condition does {s} raise {d}?",
        "What makes {s} fail with {d}?",
        "I get {d} from {s}. What is the cause?",
        "What does {d} raised by {s} mean?",
    ),
    "raises.which": (
        "Which exception does {s} raise {d}?",
        "What error do I get from {s} {d}?",
        "What does {s} raise {d}?",
        "Which error does {s} throw {d}?",
        "What exception should I catch around {s} {d}?",
    ),
    "base": (
        "Which class does {s} inherit from?",
        "What is the base class of {s}?",
        "What does {s} extend?",
        "What is the parent class of {s}?",
        "What is {s} a subclass of?",
        "From what is {s} derived?",
        "Which base does {s} build on?",
    ),
    "relation": (
        "Which parameter of {s} {d}?",
        "Which argument of {s} {d}?",
        "What is the name of the parameter of {s} that {d}?",
        "In {s}, which argument {d}?",
        "Which option of {s} {d}?",
        "When calling {s}, which parameter {d}?",
        "Name the parameter of {s} that {d}.",
    ),
    "how_to.api": (
        "How do I {d} in {p}?",
        "Which {p} {noun} lets me {d}?",
        "In {p}, how can I {d}?",
        "What should I call in {p} to {d}?",
        "Which {noun} of {p} do I use to {d}?",
        "I want to {d}. What does {p} offer for it?",
        "How would I {d} with {p}?",
        "What is the {p} {noun} to {d}?",
    ),
    "definition": (
        "What is {d}{c}?",
        "What is meant by {d}{c}?",
        "How is {d} defined{c}?",
        "Can you define {d}{c}?",
        "What does {d} mean{c}?",
        "How would you describe {d}{c}?",
        "Explain what {d} is{c}.",
    ),
    "definition.plural": (
        "What are {d}{c}?",
        "What is meant by {d}{c}?",
        "How are {d} defined{c}?",
        "What is there to know about {d}{c}?",
        "How would you describe {d}{c}?",
        "Explain what {d} are{c}.",
    ),
    "statement": (
        "What does {s} {d}{c}?",
        "Do you know what {s} {o}{c}?",
        "Tell me what {s} {o}{c}.",
        "Can you say what {s} {o}{c}?",
    ),
    "statement.plural": (
        "What do {s} {d}{c}?",
        "Do you know what {s} {d}{c}?",
        "Tell me what {s} {d}{c}.",
        "Can you say what {s} {d}{c}?",
    ),
    "modal": (
        "What {o} {s} {d}{c}?",
        "Tell me what {s} {o} {d}{c}.",
        "Do you know what {s} {o} {d}{c}?",
        "Can you say what {s} {o} {d}{c}?",
    ),
    "rests_on": (
        "What {o} {s} {d}{c}?",
        "Tell me what {s} {o} {d}{c}.",
        "Do you know what {s} {o} {d}{c}?",
    ),
    "used_for": (
        "What {o} {s} {d} for{c}?",
        "For what {o} {s} {d}{c}?",
        "Tell me what {s} {o} {d} for{c}.",
    ),
    "means.passive": (
        "How can {s} be {d}{c}?",
        "Tell me how {s} can be {d}{c}.",
        "In which way can {s} be {d}{c}?",
        "Do you know how {s} can be {d}{c}?",
    ),
    "state.how": (
        "How {o} {s} {d}{c}?",
        "In which way {o} {s} {d}{c}?",
        "Tell me how {s} {o} {d}{c}.",
        "Do you know how {s} {o} {d}{c}?",
    ),
    "state.when": (
        "When {o} {s} {d}{c}?",
        "Tell me when {s} {o} {d}{c}.",
        "Under which condition {o} {s} {d}{c}?",
        "Do you know when {s} {o} {d}{c}?",
    ),
    "state.where": (
        "Where {o} {s} {d}{c}?",
        "Tell me where {s} {o} {d}{c}.",
        "Do you know where {s} {o} {d}{c}?",
    ),
    "needed_for": (
        "What {o} for {d}{c}?",
        "Tell me what {o} for {d}{c}.",
        "Do you know what {o} for {d}{c}?",
    ),
    "reason": (
        "Why {d}{c}?",
        "Can you explain why {s}{c}?",
        "For what reason {d}{c}?",
        "Do you know why {s}{c}?",
    ),
    "remark": (
        "What do the documents say about {s}{c}?",
        "What is said about {s}{c}?",
        "What should I know about {s}{c}?",
        "Tell me about {s}{c}.",
        "What is there to know about {s}{c}?",
        "What is told about {s}{c}?",
        "Which facts are given about {s}{c}?",
    ),
    "condition": (
        "What happens {d}{c}?",
        "What should I know {d}{c}?",
        "What can I expect {d}{c}?",
        "Do you know what happens {d}{c}?",
        "What do the documents say about what happens {d}{c}?",
    ),
    "condition.do": (
        "What should I do {d}{c}?",
        "What do I have to do {d}{c}?",
        "What is there to do {d}{c}?",
        "What can I do {d}{c}?",
    ),
    "how_to.by": (
        "How do I {d}{c}?",
        "How can I {d}{c}?",
        "In which way do I {d}{c}?",
        "I want to {d}{c}. How?",
    ),
    "how_to": (
        "How do I {d}{c}?",
        "How can I {d}{c}?",
        "What do I have to do to {d}{c}?",
        "What is the way to {d}{c}?",
        "I want to {d}{c}. How?",
        "What is needed to {d}{c}?",
    ),
    "list_item": (
        "What is {d}{c}?",
        "What does {d} mean{c}?",
        "How is {d} described{c}?",
        "Can you explain {d}{c}?",
        "What should I know about {d}{c}?",
        "What is said about {d}{c}?",
    ),
    "heading": (
        "What do the documents say about {d}{c}?",
        "What should I know about {d}{c}?",
        "Can you give me an introduction to {d}{c}?",
        "What is the main point about {d}{c}?",
        "How is {d} introduced{c}?",
        "Tell me about {d}{c}.",
    ),
    "table": (
        "What is the {o} of {d}{c}?",
        "Which {o} does {d} have{c}?",
        "For {d}, what is the {o}{c}?",
    ),
    "absent.version": (
        "In which version of {p} was {s} introduced?",
        "Since which release is {s} available?",
        "Which version of {p} first contained {s}?",
    ),
    "absent.author": (
        "Who wrote {s}?",
        "Which person maintains {s}?",
        "Who contributed {s} to {p}?",
    ),
    "absent.cost": (
        "How long does {s} take to run?",
        "How much memory does {s} use?",
        "How fast is {s} compared with its alternatives?",
        "What is the time complexity of {s}?",
    ),
    "absent.thread": (
        "Is {s} safe to call from several threads?",
        "Does {s} hold a lock while it runs?",
    ),
    "absent.environment": (
        "Which environment variable changes what {s} does?",
        "Which configuration file does {s} read?",
        "Which lines does {s} write to the log?",
        "Which log level does {s} use for its messages?",
    ),
    "absent.prose.0": ("Who invented {d}{c}?", "Who came up with {d}{c}?", "Whose idea was {d}{c}?"),
    "absent.prose.1": ("How much does {d} cost{c}?", "What is the price of {d}{c}?", "Is there a fee for {d}{c}?"),
    "absent.prose.2": ("In which year did {d} first appear{c}?", "When was {d} introduced{c}?", "How old is {d}{c}?"),
    "absent.prose.3": ("Which company is behind {d}{c}?", "Which firm owns {d}{c}?", "Which business sells {d}{c}?"),
    "absent.prose.4": ("How many people use {d}{c}?", "How popular is {d}{c}?", "Who are the main users of {d}{c}?"),
    "absent.prose.5": ("In which country was {d} created{c}?", "Where in the world was {d} made{c}?"),
}


def draw(seed: int, *parts: str) -> float:
    """Return a number in [0, 1) that depends on the seed and the parts alone."""
    digest = hashlib.sha256("\x1f".join([str(seed), *parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def choose(seed: int, options: Sequence[str], *parts: str) -> str:
    """Return one of the options, by the seeded hash of the parts."""
    return options[int(draw(seed, *parts) * len(options))]


def worded(seed: int, wording: str, slots: dict[str, str], *parts: str) -> tuple[str, str]:
    """Return the question for the slots and the name of the template, such as `default.3`."""
    templates = WORDINGS[wording]
    number = int(draw(seed, "wording", wording, *parts) * len(templates))
    template = templates[number]
    if "{p}" in template and "{s}" in template:
        slots = {**slots, "s": slots["s"].removesuffix(f" in {slots['p']}")}
    question = template.format(**slots)
    return question[0].upper() + question[1:], f"{wording}.{number}"


def quoted(name: str, seed: int, *parts: str) -> str:
    """Return the identifier as people type it: bare, or in backticks where it looks like a plain word."""
    if not distinctive(name) or draw(seed, "ticks", name, *parts) < 0.4:
        return f"`{name}`"
    return name


def distinctive(name: str) -> bool:
    """Return whether a name reads as an identifier inside a sentence: dotted, underscored or in camel case."""
    return "." in name or "_" in name.strip("_") or bool(re.search(r"[a-z0-9][A-Z]", name))
