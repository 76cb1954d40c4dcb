"""Takes markup out of Markdown in docstrings: comments, images, tags and link targets."""

import html
import re

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
