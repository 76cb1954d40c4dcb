"""Writes code, tables, exponents and the numbers of lists the way the text of a document has them."""

import re

_MOST_PADDED = 1_000_000  # cells of a table whose short rows are filled up
_ROMAN = {"m": 1000, "cm": 900, "d": 500, "cd": 400, "c": 100, "xc": 90, "l": 50, "xl": 40, "x": 10}
_ROMAN |= {"ix": 9, "v": 5, "iv": 4, "i": 1}
_POWER = re.compile(r"[+−–-]?\d[\d.,]*|[a-z]|[+−–-]?\d*[a-z]")
_EXPRESSION = re.compile(r"[\w.,()]*[+−–*/=-][\w.,()+−–*/=-]*")


def code_span(text: str) -> str:
    """Return the text as a Markdown code span; the fence is longer than any run of backticks in it."""
    text = " ".join(text.split())
    if not text:
        return ""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def code_block(text: str, language: str = "") -> str:
    """Return the lines as a fenced Markdown code block."""
    text = text.strip("\n").rstrip()
    if not text.strip():
        return ""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table_text(rows: list[list[str]], head: bool = True) -> str:
    """Return a Markdown table; without `head` the first row of cells is empty.

    Rows shorter than the longest are filled up with empty cells, unless the table would grow out of bounds; `|` in a
    cell is escaped.
    """
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if not rows:
        return ""
    width = max(map(len, rows))
    filled = width if width * len(rows) <= _MOST_PADDED else 0
    grid = [[cell.replace("|", "\\|") for cell in row] + [""] * (filled - len(row)) for row in rows]
    if not head:
        grid.insert(0, [""] * width)
    grid.insert(1, ["---"] * width)
    return "\n".join(f"| {' | '.join(row)} |" for row in grid)


def superscript(words: str) -> str:
    """Return an exponent with its sign, `^6` or `^(n+1)`; other raised words, such as the `st` of 1st, as they are."""
    if _POWER.fullmatch(words.strip()):
        return f"^{words}"
    return f"^({words})" if _EXPRESSION.fullmatch(words.strip()) else words


def written_number(value: int, form: str) -> str:
    """Return a number as a list shows it; `form` is a name of Word, such as `lowerRoman` or `decimalZero`."""
    if form in ("lowerRoman", "upperRoman"):
        text = ""
        for letters, size in _ROMAN.items():
            text += letters * (value // size)
            value %= size
        return text.upper() if form == "upperRoman" else text
    if form in ("lowerLetter", "upperLetter"):
        letter = chr(ord("a") + (value - 1) % 26) * ((value - 1) // 26 + 1) if value > 0 else ""
        return letter.upper() if form == "upperLetter" else letter
    return f"{value:02d}" if form == "decimalZero" else str(value)
