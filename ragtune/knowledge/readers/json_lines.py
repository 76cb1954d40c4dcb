"""JSON lines: one document a line."""

import json
from collections.abc import Iterator

from ragtune.knowledge.readers.encoding import decode, whole_characters
from ragtune.knowledge.readers.files import complete
from ragtune.knowledge.readers.markdown import markdown_blocks
from ragtune.knowledge.readers.reading import Reading


def read_json_lines(raw: bytes) -> Iterator[Reading | tuple[str, str]]:
    r"""Yield one reading for each line of `{"id", "title", "text"}`, or (key, reason) for a broken line.

    Lines end at `\n` alone: U+2028 and its relatives may stand inside a JSON string. A record without an id, or
    with the id null, is known by its line number.
    """
    seen: set[str] = set()
    for number, line in enumerate(decode(raw).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            yield f"line {number}", f"not JSON: {error.msg} at column {error.colno}"
            continue
        except (ValueError, RecursionError) as error:
            # A number of thousands of digits, or brackets nested thousands deep.
            yield f"line {number}", f"not JSON that can be read: {error}"
            continue
        if not isinstance(record, dict) or "text" not in record:
            yield f"line {number}", 'not an object with "id", "title" and "text"'
            continue
        if isinstance(record["text"], dict | list):
            yield f"line {number}", f"its text is a {type(record['text']).__name__}, not a string"
            continue
        name = record.get("id", record.get("_id"))
        key = str(number if name is None else name)
        text = whole_characters(str(record["text"] or ""))
        if key in seen:
            yield f"line {number}", f"the id '{key}' stands on an earlier line too"
        elif not text.strip():
            yield key, "the text is empty"
        else:
            seen.add(key)
            facts = {
                name: whole_characters(str(record.get(name) or ""))
                for name in ("title", "language", "topic", "modified")
            }
            blocks, left_out = markdown_blocks(text)
            reading = Reading(blocks=tuple(blocks), left_out=tuple(left_out), key=key, **facts)
            yield complete(reading, facts["title"] or key)
