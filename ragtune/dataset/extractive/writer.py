"""Writes questions and answers from the structure of the documents, without a language model.

Every choice is a seeded hash of the fact itself, so the same chunks give the same pairs
and new documents leave the pairs of the old ones as they were.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ragtune.dataset.checks.quality import gives_away
from ragtune.dataset.checks.word_overlap import overlap_answer, token_overlap
from ragtune.dataset.extractive.api_facts import ApiObject, Fact, api_facts, is_api, prose_spans, read_object
from ragtune.dataset.extractive.prose_facts import generic, heading_facts, named, passing, prose_facts, row_keys
from ragtune.dataset.extractive.unanswerable import Neighbours, Terms, unanswerable_facts, unanswerable_prose
from ragtune.dataset.extractive.verbs import in_plain_nouns, third, with_synonym_verb
from ragtune.dataset.extractive.wording import distinctive, quoted, worded
from ragtune.draws import choose, draw
from ragtune.knowledge.names import in_words
from ragtune.ports import PairWriter, Progress, silent
from ragtune.records import Chunk, QAPair, content_id
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words

_RARE = {"table": 0.0, "how_to": 0.1, "raises": 0.1, "base": 0.3, "definition": 0.1, "condition": 0.2, "relation": 0.3}
_TRIVIAL = frozenset({"True", "False", "[]", "{}", "''", "str", "int", "bool", "dict"})
# How many of the prose questions are kept that the best sentence answers: fewer of the kinds where it mostly does.
_EASY_SHARE, _EASY_SHARES = 0.5, {"heading": 0.15, "definition": 0.15, "remark": 0.15}
# How many facts of a kind a chunk may be asked about, one otherwise.
_REPEATABLE = {"table": 3, "list_item": 3, "statement": 3, "how_to": 2, "remark": 2, "definition": 2, "condition": 2}
_TERM_KINDS = ("definition", "list_item")
_TYPES = ("type", "returns.type", "returns.value")
_FURTHER = re.compile(
    r",? (?:that|which|when|if|so|using|based|from|with|and|by|for|in|on|as|into|at|given|where|whose|to|of)\b"
)
"""Where a description may end when people ask for it."""
_ENDS_BADLY = re.compile(
    r"(?:\b(?:an?|the|each|given|not|such|but|all|suitable|greater|less|more|than|pairs?|sets?|lists?|number|sequence"
    r"|kind|type|sort|part|up|is|are|be)|\w{2,}(?<!str)ing|\w+ed|[-,({\[])$"
    r"|\b(?:between|both|either)\b(?!.* (?:and|or) )"
    r"|^(?:convert|transform|translate|turn|cast|map|compare|replace)\b(?!.* (?:in)?to | with )"
)
_BARE_SHARE = 0.5
_SPACED_SHARE = 0.15
_SPOKEN_SHARE = 0.35
_LOOSE_SHARE = 0.5
_OTHER_VERB_SHARE = 0.5
_MOST_OF_SAME_ANSWER = {1: 0.006, 2: 0.004}


class ExtractiveWriter(PairWriter):
    """Asks about what stands in a chunk, at most one question of a kind for each chunk."""

    name = "extractive"

    def __init__(self, seed: int, limit_per_chunk: int = 3, unanswerable_share: float = 0.15) -> None:
        self.seed = seed
        self.limit_per_chunk = limit_per_chunk
        self.unanswerable_share = unanswerable_share

    def write(self, chunks: Sequence[Chunk], progress: Progress = silent) -> list[QAPair]:
        """Return pairs whose answers stand in their chunks, in the order of the chunks, no question twice."""
        documents: dict[str, list[Chunk]] = defaultdict(list)
        for chunk in chunks:
            if not chunk.duplicate_of:
                documents[chunk.document_id].append(chunk)
        ordered = [sorted(found, key=lambda chunk: chunk.position) for found in documents.values()]
        objects = {found[0].document_id: read_object(found) for found in ordered if is_api(found)}
        names = _Names(objects.values())
        neighbours = Neighbours(list(objects.values()), self.seed)
        prose = {found[0].document_id: self._prose_facts(found) for found in ordered if not is_api(found)}
        terms = Terms(
            [
                (document, fact.slots["d"])
                for document, picked in prose.items()
                for _, facts in picked
                for fact in facts
                if fact.kind in _TERM_KINDS
            ],
            self.seed,
        )
        pairs: list[QAPair] = []
        for done, found in enumerate(ordered):
            document = found[0].document_id
            if document in objects:
                pairs += self._api_pairs(found, objects[document], names, neighbours)
            else:
                pairs += self._prose_pairs(prose[document], terms)
            if done % 200 == 0:
                progress("writing questions", done, len(ordered))
        progress("writing questions", len(ordered), len(ordered))
        return self._distinct(pairs)

    def _api_pairs(
        self, chunks: list[Chunk], owner: ApiObject, names: "_Names", neighbours: Neighbours
    ) -> list[QAPair]:
        pairs = []
        for chunk in chunks:
            facts = list(api_facts(chunk, owner))
            if owner.noun in ("module", "class", "function"):
                place = f" in {names.spoken(owner, self.seed, 'prose', chunk.id)}"
                facts += prose_facts(chunk, prose_spans(chunk), place)
            facts = [fact for fact in facts if not _sought(fact) or names.ways(owner, fact.slots["d"])]
            for fact in self._picked(chunk, facts):
                asked = self._as_spoken(fact, owner, names)
                pairs.append(self._pair(chunk, asked, self._slots(asked, owner, names)))
        absent = self._picked_absent(chunks[0], list(unanswerable_facts(owner, neighbours, self.seed)), len(pairs))
        for fact in absent:
            pairs.append(self._pair(chunks[0], fact, self._slots(fact, owner, names)))
        return pairs

    def _prose_facts(self, chunks: list[Chunk]) -> list[tuple[Chunk, list[Fact]]]:
        found = []
        rows = Counter(key for chunk in chunks for key in row_keys(chunk.text))
        for chunk in chunks:
            context = _prose_context(chunk)
            facts = []
            if not passing(chunk):
                facts = [*prose_facts(chunk, [(0, len(chunk.text))], context), *heading_facts(chunk, context)]
            # A key in two rows of a document, such as a parameter of two functions, tells nobody which is meant.
            facts = [fact for fact in facts if fact.kind != "table" or rows[fact.slots["d"].strip("`")] == 1]
            if not context:
                facts = [fact for fact in facts if fact.kind in ("definition", "statement") and named(fact)]
            found.append((chunk, self._picked(chunk, facts)))
        return found

    def _prose_pairs(self, picked: list[tuple[Chunk, list[Fact]]], terms: Terms) -> list[QAPair]:
        pairs = []
        text = "\n".join(chunk.text for chunk, _ in picked)
        for chunk, facts in picked:
            asked = [self._pair(chunk, fact, fact.slots) for fact in facts]
            pairs += [pair for pair in asked if self._worth_asking(pair, chunk)]
            term = next((fact.slots["d"] for fact in facts if fact.kind in _TERM_KINDS), "")
            context = _prose_context(chunk)
            absent = list(unanswerable_prose(chunk.document_id, term, text, context, terms)) if facts else []
            absent = [fact for fact in absent if fact.slots["d"]]
            pairs += [self._pair(chunk, a, a.slots) for a in self._picked_absent(chunk, absent, len(facts))]
        return pairs

    def _worth_asking(self, pair: QAPair, chunk: Chunk) -> bool:
        """Keep every pair that takes understanding, and few of those that the best sentence by words answers."""
        easy = token_overlap(overlap_answer(pair.question, chunk.text), pair.answer) >= 0.8
        return not easy or draw(self.seed, "easy", pair.id) < _EASY_SHARES.get(pair.kind, _EASY_SHARE)

    def _picked(self, chunk: Chunk, facts: Iterable[Fact]) -> list[Fact]:
        """Return at most one fact of a kind (three of prose kinds) and `limit_per_chunk` of all, rare kinds first."""
        best: dict[tuple[str, int], tuple[float, Fact]] = {}
        for fact in facts:
            answer = chunk.text[fact.start : fact.end]
            if draw(self.seed, "keep", chunk.id, fact.wording, answer, fact.slots.get("d", "")) >= _kept_share(
                fact, answer
            ):
                continue
            rank = draw(self.seed, "pick", chunk.id, fact.wording, str(fact.start), str(sorted(fact.slots.items())))
            if answer in _TRIVIAL or fact.wording in _TYPES:
                rank += 1.0
            key = (fact.kind, fact.start % _REPEATABLE.get(fact.kind, 1))
            if key not in best or rank < best[key][0]:
                best[key] = (rank, fact)
        ranked = sorted((rank if rank >= 1 else rank * _RARE.get(key[0], 1.0), key) for key, (rank, _) in best.items())
        return [best[key][1] for _, key in ranked[: self.limit_per_chunk]]

    def _picked_absent(self, chunk: Chunk, facts: list[Fact], written: int) -> list[Fact]:
        """Return about `share / (1 - share)` unanswerable facts for each written pair."""
        if not facts or not written:
            return []
        wanted = written * self.unanswerable_share / (1 - self.unanswerable_share)
        count = int(wanted + draw(self.seed, "absent count", chunk.id))
        easy = {"unanswerable.absent": 0.6}
        facts.sort(key=lambda f: draw(self.seed, "absent", chunk.id, f.kind) + easy.get(f.kind, 0.0))
        return facts[:count]

    def _as_spoken(self, fact: Fact, owner: ApiObject, names: "_Names") -> Fact:
        """Return the fact, for some classes asked for by the two words of their name: `what is an io manager`."""
        phrase = names.spaced(owner)
        spoken = fact.kind == "purpose" and phrase.count(" ") == 1
        if not spoken or draw(self.seed, "spoken", owner.title, fact.wording) >= _SPOKEN_SHARE:
            return fact
        article = "an" if phrase[0] in "aeiou" else "a"
        return replace(fact, wording="purpose.spoken", slots={"d": phrase, "o": article, "n": third(phrase)})

    def _slots(self, fact: Fact, owner: ApiObject, names: "_Names") -> dict[str, str]:
        key = (owner.title, fact.wording, fact.slots.get("d", ""))
        slots = {"s": names.spoken(owner, self.seed, *key), "p": owner.package, "noun": owner.noun, **fact.slots}
        if fact.wording in ("parameter", "parameter.effect", "default", "type", "raises.when"):
            slots["d"] = quoted(slots["d"], self.seed, *key)
        if _sought(fact):
            slots["d"] = choose(self.seed, names.ways(owner, slots["d"]), "way", *key)
            if draw(self.seed, "loosely", *key) < _LOOSE_SHARE:
                slots["d"] = in_plain_nouns(slots["d"])
        if fact.wording == "how_to.api" and draw(self.seed, "other verb", *key) < _OTHER_VERB_SHARE:
            slots["d"] = with_synonym_verb(slots["d"], draw(self.seed, "which verb", *key))
        return slots

    def _pair(self, chunk: Chunk, fact: Fact, slots: dict[str, str]) -> QAPair:
        key = (chunk.document_id, fact.kind, slots.get("d", ""), str(fact.start))
        question, template = worded(self.seed, fact.wording, slots, *key)
        answer = collapse_whitespace(chunk.text[fact.start : fact.end])
        return QAPair(
            id=content_id(chunk.id, question, answer),
            question=question,
            answer=answer,
            kind=fact.kind,
            document_id=chunk.document_id,
            chunk_id=chunk.id,
            span=(fact.start, fact.end),
            answerable=bool(answer),
            topic=chunk.topic,
            writer=self.name,
            template=template,
        )

    def _distinct(self, pairs: list[QAPair]) -> list[QAPair]:
        """Drop repeated questions, long answers said before, and short answers that recur too often."""
        kept: set[str] = set()
        questions: set[str] = set()
        answers: Counter[tuple[str, str]] = Counter()
        for pair in sorted(pairs, key=lambda pair: draw(self.seed, "keep", pair.id)):
            asked = pair.question.lower()
            words = len(pair.answer.split())
            answer = (pair.kind, pair.answer.lower()) if words < 4 else ("", pair.answer.lower())
            most = 1 if words >= 4 else max(3, int(len(pairs) * _MOST_OF_SAME_ANSWER.get(words, 0.002)))
            if (
                asked in questions
                or (pair.answerable and gives_away(pair.question, pair.answer))
                or (pair.answerable and answers[answer] >= most)
            ):
                continue
            questions.add(asked)
            answers[answer] += pair.answerable
            kept.add(pair.id)
        return [pair for pair in {pair.id: pair for pair in pairs}.values() if pair.id in kept]


class _Names:
    """How an object is called in a question: its full path, or a shorter name that means it alone."""

    def __init__(self, objects: Iterable[ApiObject]) -> None:
        self.owners: Counter[str] = Counter()
        self.phrases: Counter[str] = Counter()
        self.actions: Counter[tuple[str, ...]] = Counter()
        self.said: dict[str, set[str]] = defaultdict(set)
        self.parameters: set[str] = set()
        for owner in objects:
            parts = owner.title.split(".")
            self.owners.update({".".join(parts[-size:]) for size in range(1, len(parts))})
            self.phrases[_spaced(owner)] += 1
            self.actions.update(_trigrams(owner))
            for word in content_words(f"{owner.name} {_purpose(owner)}"):
                self.said[word].add(owner.title)
            self.parameters.update(owner.parameters)

    def telling(self, member: str) -> bool:
        """Return whether a member's own name says which one is meant: it is long, and nothing else has it."""
        long = member.strip("_").count("_") >= 2 or ("_" in member.strip("_") and len(member) >= 14)
        return long and self.owners[member] == 1 and member not in self.parameters

    def ways(self, owner: ApiObject, sought: str) -> list[str]:
        """Return how something that one object does or is can be asked for so that no other is meant.

        As it is described, where most of the wording is this object's alone; and as people put it, without what
        follows once enough was said.
        """
        grams = _trigrams(owner)
        shared = sum(self.actions[gram] > 1 for gram in grams)
        whole = len(content_words(sought)) >= 6 and shared * 3 <= len(grams)
        brief = next((words for words in [*_cuts(sought), sought] if self._means_alone(owner, words)), "")
        return list(dict.fromkeys([*([sought] if whole else []), *([brief] if brief else [])]))

    def _means_alone(self, owner: ApiObject, words: str) -> bool:
        """Return whether no other object's name and purpose hold all of the words behind the first, two at least.

        The first is a verb, for which people may say another, or an article.
        """
        sought = content_words(words.partition(" ")[2])
        own = set.intersection(*(self.said.get(word, set()) for word in sought)) if sought else set()
        return len(sought) >= 2 and len(content_words(words)) >= 3 and own == {owner.title}

    def spaced(self, owner: ApiObject) -> str:
        """Return a class's name as words, where there are several and no other object has the same; else nothing."""
        phrase = _spaced(owner)
        return phrase if owner.noun == "class" and " " in phrase and self.phrases[phrase] == 1 else ""

    def spoken(self, owner: ApiObject, seed: int, *key: str) -> str:
        """Return one of the unmistakable names, quoted where it would read as a plain word."""
        phrase = self.spaced(owner)
        if phrase and draw(seed, "spaced", *key) < _SPACED_SHARE:
            return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
        parts = owner.title.split(".")
        member = len(parts) > 2 and parts[-2][:1].isupper()
        size = 2 if member else 1
        if member and self.telling(owner.name) and draw(seed, "bare", *key) < _BARE_SHARE:
            size = 1
        short = [".".join(parts[-size:])] if size < len(parts) else []
        alone = [name for name in short if self.owners[name] == 1 and distinctive(name)]
        options = [owner.title, *alone, *[f"{name} in {owner.package}" for name in alone[:1]]]
        if len(parts) > 4 and alone:
            options = options[1:]
        chosen = choose(seed, options, "name", *key)
        name, _, place = chosen.partition(" in ")
        return quoted(name, seed, *key) + (f" in {place}" if place else "")


def _kept_share(fact: Fact, answer: str) -> float:
    """Return how many of the facts of a sort are asked about: types, bases and plain values abound."""
    if fact.wording in _TYPES:
        return 0.15 if answer in _TRIVIAL else 0.45
    if fact.kind == "base":
        return 0.5
    return 0.4 if answer in _TRIVIAL else 1.0


def _spaced(owner: ApiObject) -> str:
    """Return the object's own name as it is spoken: `asset check spec`."""
    return in_words(owner.name).strip().lower()


def _cuts(sought: str) -> list[str]:
    """Return the beginnings of a description that read as one, the shortest first."""
    cuts = [sought[: cut.start()] for cut in _FURTHER.finditer(sought)]
    return [cut for cut in cuts if not _ENDS_BADLY.search(cut) and cut.count("`") % 2 == 0 and cut.count("'") % 2 == 0]


def _sought(fact: Fact) -> bool:
    """Return whether a question describes what it wants the name of."""
    return fact.wording in ("how_to.api", "how_to.thing")


def _purpose(owner: ApiObject) -> str:
    return [*owner.text.split("\n\n", 2), ""][1]


def _trigrams(owner: ApiObject) -> set[tuple[str, ...]]:
    """Return the word triples of the object's purpose."""
    words = _purpose(owner).lower().split()[1:40]
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def _prose_context(chunk: Chunk) -> str:
    """Return ` in TITLE` for prose; empty where neither the title nor the topic says what the text is about."""
    for title in (chunk.title.removesuffix(" (package)"), chunk.topic):
        name = re.sub(r"[^\x20-\x7e]", "", re.split(r": | [—–-] ", title)[0]).strip(" :!?.#")
        if len(name.split()) <= 9 and not generic(name) and not title.rstrip().endswith("?"):
            return f" in {name}"
    return ""
