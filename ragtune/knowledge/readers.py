"""Turns the bytes of one file into Markdown with a title, a language and a topic.

One reader per format; a file that cannot be read raises UnreadableError with the reason,
which the caller writes into the quarantine.
"""

import html
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ragtune.knowledge.pdf import DamagedPdfError, pdf_text
from ragtune.knowledge.restructured import refilled, to_markdown, unwrap
from ragtune.text.language import guess_language

if TYPE_CHECKING:
    from markitdown import MarkItDown

MAX_TITLE = 160
_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[^\n]*\n.*?(?:^[ \t]*\2[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_CODE_SPAN = re.compile(r"(`+)(?:(?!\1).)+\1")
_LINK = re.compile(r"(?<!\\)\[([^\]\[]+)\](?:\([^()\s]*(?:\([^()]*\)[^()\s]*)?(?:\s+[\"'][^)]*)?\)|\[[^\]]*\])")
_TAG = re.compile(
    r"</?(?:a|abbr|address|article|b|big|blockquote|body|br|center|cite|code|col|colgroup|dd|del|details|div|dl|dt|em|"
    r"figcaption|figure|font|h[1-6]|head|hr|html|i|iframe|img|input|ins|kbd|label|li|link|main|mark|meta|object|ol|p|"
    r"picture|pre|q|s|samp|section|small|source|span|strike|strong|sub|summary|sup|table|tbody|td|tfoot|th|thead|time|"
    r"tip|tr|tt|u|ul|var|video|wbr)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n(?:---|\.\.\.)\s*\n", re.DOTALL)


class UnreadableError(ValueError):
    """A file whose content cannot be read; the text says why."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file says: Markdown text and what is known about it. `key` tells records of one file apart."""

    text: str
    title: str = ""
    language: str = ""
    topic: str = ""
    modified: str = ""
    key: str = ""


def can_read(path: str) -> bool:
    """Return whether there is a reader for the file, by its name."""
    return _reader(path) is not None


def read_bytes(path: str, raw: bytes) -> Reading:
    """Return the content of a file as Markdown; `path` decides the format.

    Raises UnreadableError that says why when the file is damaged, empty or not text.
    """
    reader = _reader(path)
    if reader is None:
        raise UnreadableError(f"there is no reader for '{PurePosixPath(path).suffix}' files")
    if not raw.strip():
        raise UnreadableError("the file is empty")
    reading = reader(raw)
    if not reading.text.strip():
        raise UnreadableError("no text was found in it (a scan, or images only?)")
    return complete(reading, PurePosixPath(path).stem)


def complete(reading: Reading, name: str) -> Reading:
    """Return the reading with title and language filled in from its text, or from the file's name."""
    title = " ".join((reading.title or _first_heading(reading.text) or _spoken(name)).split())
    if len(title) > MAX_TITLE:
        title = title[: MAX_TITLE - 1].rsplit(" ", 1)[0] + "…"
    language = (reading.language or guess_language(reading.text)).split("-")[0].split("_")[0].lower()
    return replace(reading, text=reading.text.strip() + "\n", title=title, language=language)


def read_jsonl(raw: bytes) -> Iterator[Reading | tuple[str, str]]:
    """Yield one reading per line of `{"id", "title", "text"}`, or (key, reason) for a broken line."""
    seen: set[str] = set()
    for number, line in enumerate(decode(raw).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            yield f"line {number}", f"not JSON: {error.msg} at column {error.colno}"
            continue
        if not isinstance(record, dict) or "text" not in record:
            yield f"line {number}", 'not an object with "id", "title" and "text"'
            continue
        key = str(record.get("id", record.get("_id", number)))
        text = str(record["text"] or "")
        if key in seen:
            yield f"line {number}", f"the id '{key}' stands on an earlier line too"
        elif not text.strip():
            yield key, "the text is empty"
        else:
            seen.add(key)
            facts = {name: str(record.get(name) or "") for name in ("title", "language", "topic", "modified")}
            yield complete(Reading(text, key=key, **facts), facts["title"] or key)


def decode(raw: bytes) -> str:
    """Return the text of the bytes: UTF-8 or by byte order mark, else the likeliest legacy encoding.

    Raises UnreadableError for bytes that are no text.
    """
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if raw.startswith(mark):
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError as error:
                raise UnreadableError(f"the byte order mark says {encoding}, but {error.reason}") from error
    if b"\0" in raw:
        raise UnreadableError("it holds NUL bytes: this is not text")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        text = _decode_legacy(raw, error)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decode_legacy(raw: bytes, error: UnicodeDecodeError) -> str:
    from charset_normalizer import from_bytes

    guess = from_bytes(raw[:200_000]).best()
    if guess is None:
        reason = f"it is not UTF-8 (byte {raw[error.start]:#04x} at {error.start}) and no other encoding fits"
        raise UnreadableError(reason) from error
    return raw.decode(guess.encoding, errors="replace")


def clean_markdown(text: str) -> str:
    """Return Markdown without comments, images, badges, HTML tags and link targets; code stays as it is."""
    parts, at = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_clean_prose(text[at : fence.start()]), fence[0]]
        at = fence.end()
    parts.append(_clean_prose(text[at:]))
    return re.sub(r"\n{3,}", "\n\n", "".join(parts)).strip() + "\n"


def _clean_prose(text: str) -> str:
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<(script|style|svg)\b.*?</\1>", "", text, flags=re.DOTALL | re.IGNORECASE)
    spans: list[str] = []

    def keep(match: re.Match[str]) -> str:
        spans.append(match[0])
        return f"\0{len(spans) - 1}\0"

    text = _CODE_SPAN.sub(keep, text)
    text = re.sub(r"!\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])", "", text)
    text = re.sub(r"\[\s*\](?:\([^)]*\)|\[[^\]]*\])", "", text)
    text = _LINK.sub(r"\1", text)
    text = re.sub(r"^\[[^\]]+\]:\s+\S+.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"<(h[1-6])\b[^>]*>(.*?)</\1>", _heading_of_html, text, flags=re.DOTALL | re.IGNORECASE)
    text = re.sub(r"<br\s*/?>", "\n", text, flags=re.IGNORECASE)
    text = _TAG.sub("", text)
    text = re.sub(r"\\([_*\[\]<>#~`.!()+-])", r"\1", text)
    text = re.sub(r"^[ \t]*(\||·|•)?[ \t]*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\0(\d+)\0", lambda match: spans[int(match[1])], text)
    return html.unescape(text)


def _heading_of_html(match: re.Match[str]) -> str:
    inner = re.sub(r"<[^>]+>", "", match[2]).strip()
    return f"\n{'#' * int(match[1][1])} {inner}\n" if inner else ""


def _markdown(raw: bytes) -> Reading:
    text = decode(raw)
    facts: dict[str, Any] = {}
    front = _FRONT_MATTER.match(text)
    if front:
        facts = _front_matter(front[1])
        text = text[front.end() :] if facts else text
    topic = facts.get("topic") or facts.get("category") or facts.get("tags") or ""
    if isinstance(topic, list):
        topic = topic[0] if topic else ""
    return Reading(
        unwrap(clean_markdown(text)),
        title=str(facts.get("title") or ""),
        language=str(facts.get("language") or facts.get("lang") or ""),
        topic=str(topic),
    )


def _front_matter(text: str) -> dict[str, Any]:
    import yaml

    try:
        facts = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        # Not front matter but a rule at the top of the text, or a day that no month has: it stays part of the text.
        return {}
    return facts if isinstance(facts, dict) else {}


def _restructured(raw: bytes) -> Reading:
    text = decode(raw)
    fields = re.match(r"\s*((?::[\w-]+:.*\n)+)", text)
    title = re.search(r"^:title:\s*(.+)$", fields[1], re.MULTILINE) if fields else None
    text = text[fields.end() :] if fields else text
    return Reading(unwrap(to_markdown(text)), title=title[1] if title else "")


def _plain(raw: bytes) -> Reading:
    return Reading(refilled(decode(raw).replace("\f", "\n\n")))


def _html(raw: bytes) -> Reading:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(raw, "html.parser")
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    root = soup.html
    language = str(root.get("lang") or "") if root else ""
    for junk in soup(
        ["script", "style", "nav", "header", "footer", "aside", "noscript", "template", "form", "svg", "button"]
    ):
        junk.decompose()
    main = soup.select_one("main, [role=main]") or soup.find("article") or soup.body or soup
    for anchor in main.select("a.headerlink, a.anchor, [aria-hidden=true]"):
        anchor.decompose()
    headings = [heading.get_text(" ", strip=True) for heading in main.select("h1")]
    if len(headings) == 1 and title.startswith(headings[0]):
        title = headings[0]  # without the name of the site behind it
    _flatten_definitions(main)
    text = clean_markdown(_converted(str(main).encode(), ".html"))
    return Reading(unwrap(text), title=title, language=language)


def _flatten_definitions(main: Any) -> None:
    """Make plain paragraphs of definition lists, whose indented bodies would read as code; signatures are headings."""
    for term in main.select("dt"):
        term.name = "h6" if "sig" in term.get("class", ()) else "p"
    for body in main.select("dd"):
        body.name = "div"
    for outer in main.select("dl"):
        outer.unwrap()


def _docx(raw: bytes) -> Reading:
    return Reading(clean_markdown(_converted(raw, ".docx")))


def _pdf(raw: bytes) -> Reading:
    if raw.lstrip()[:5] != b"%PDF-":
        raise UnreadableError("it does not start with %PDF-: this is not a PDF")
    try:
        title, text = pdf_text(raw)
    except DamagedPdfError as error:
        raise UnreadableError(str(error)) from error
    return Reading(text, title=title)


def _converted(raw: bytes, suffix: str) -> str:
    from markitdown import MarkItDownException, StreamInfo

    try:
        result = _converter().convert_stream(io.BytesIO(raw), stream_info=StreamInfo(extension=suffix, charset="utf-8"))
    except MarkItDownException as error:
        reason = str(error).strip().splitlines()[-1][:300]
        raise UnreadableError(f"the {suffix[1:].upper()} is damaged: {reason}") from error
    return str(result.text_content)


@cache
def _converter() -> "MarkItDown":
    from markitdown import MarkItDown
    from markitdown.converters import DocxConverter, HtmlConverter

    # Only these two: with all of its converters it takes a damaged document for plain text.
    converter = MarkItDown(enable_builtins=False, enable_plugins=False)
    converter.register_converter(HtmlConverter())
    converter.register_converter(DocxConverter())
    return converter


def _first_heading(text: str) -> str:
    match = re.search(r"^#{1,2}\s+(.+?)\s*#*$|^(\S.*)\n=+\s*$", _FENCE.sub("", text[:20_000]), re.MULTILINE)
    return re.sub(r"[`*]", "", match[1] or match[2]).strip() if match else ""


def _spoken(name: str) -> str:
    return re.sub(r"[-_\s]+", " ", name).strip() or name


def _reader(path: str) -> Callable[[bytes], Reading] | None:
    pure = PurePosixPath(path)
    if not pure.suffix and pure.name.upper() in _BARE_NAMES:
        return _plain
    return _READERS.get(pure.suffix.lower())


_BARE_NAMES = {"README", "CHANGES", "CHANGELOG", "NEWS", "HISTORY", "AUTHORS", "INSTALL", "FAQ", "TODO", "NOTES"}
_READERS: dict[str, Callable[[bytes], Reading]] = {
    ".md": _markdown,
    ".markdown": _markdown,
    ".mdx": _markdown,
    ".rst": _restructured,
    ".txt": _plain,
    ".text": _plain,
    ".html": _html,
    ".htm": _html,
    ".xhtml": _html,
    ".pdf": _pdf,
    ".docx": _docx,
}
