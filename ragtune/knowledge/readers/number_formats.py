"""Writes a number of a spreadsheet as its number format shows it: `00042`, `£2,253,565.25`, `123-45-6789`.

The rules are those of ECMA-376 Part 1, section 18.8.31 (number formats), without fractions, exponents and conditions.
"""

import re
from decimal import ROUND_HALF_UP, Decimal

# A literal in quotes or behind a backslash, a currency, a width or a filler that is not shown, a colour, a digit
# pattern, or a sign that stands for itself.
_TOKEN = re.compile(
    r'"(?P<quoted>[^"]*)"|\\(?P<escaped>.)|\[\$(?P<currency>[^\]-]*)[^\]]*\]|_.|\*.'
    r"|\[(?:Black|Blue|Cyan|Green|Magenta|Red|White|Yellow|Color ?\d+)\]"
    r"|(?P<digits>[0#?,.]+)|(?P<sign>[-+ $€£¥()/:!&'~{}])",
    re.IGNORECASE,
)

_LITERAL = re.compile(r'"[^"]*"|\\.|_.|\*.|\[[^\]]*\]')


def is_percentage(code: str) -> bool:
    r"""Return whether a format multiplies by a hundred: it has a percent sign outside of its literal parts.

    `0.0"%"` and `0\%` put a sign behind a number that is a percentage already.
    """
    return "%" in _LITERAL.sub("", code)


def shown_number(value: float, code: str) -> str | None:
    """Return the number as a format shows it, or None if the format is `General` or has parts that are not known."""
    sections = _sections(code)
    if value < 0 and len(sections) > 1:
        value, section = -value, sections[1]
    elif value == 0 and len(sections) > 2:
        section = sections[2]
    else:
        section = sections[0]
    parts = _parts(section)
    patterns = [text for is_digits, text in parts or () if is_digits]
    if parts is None or not patterns:
        return None
    sign = "-" if value < 0 else ""
    if len(patterns) > 1:
        return _with_signs_between(value, sign, parts)
    number = _number(abs(value), patterns[0])
    return (
        None if number is None else sign + "".join(number if is_digits else text for is_digits, text in parts).strip()
    )


def _sections(code: str) -> list[str]:
    """Return the parts of a format for positive numbers, negative numbers and zero; `;` in quotes divides nothing."""
    return re.findall(r'(?:"[^"]*"|\\.|[^;])+', code) or [code]


def _parts(section: str) -> list[tuple[bool, str]] | None:
    """Return (whether it is a pattern of digits, text) for each part of a section, or None for an unknown part."""
    parts: list[tuple[bool, str]] = []
    at = 0
    while at < len(section):
        token = _TOKEN.match(section, at)
        if token is None:
            return None
        if token["digits"]:
            parts.append((True, token["digits"]))
        elif text := token["quoted"] or token["escaped"] or token["currency"] or token["sign"]:
            parts.append((False, text))
        at = token.end()
    return parts


def _number(value: float, pattern: str) -> str | None:
    whole, point, decimals = pattern.partition(".")
    if "." in decimals or "," in decimals or whole.endswith(","):
        return None  # thousands or millions are shown
    least = decimals.count("0")
    rounded = Decimal(repr(value)).quantize(Decimal(1).scaleb(-len(decimals)), rounding=ROUND_HALF_UP)
    digits, _, rest = f"{rounded:f}".partition(".")
    digits = digits.zfill(whole.count("0"))
    if "," in whole:
        digits = f"{int(digits):,}"
    while len(rest) > least and rest.endswith("0"):
        rest = rest[:-1]
    return f"{digits}{point if rest else ''}{rest}"


def _with_signs_between(value: float, sign: str, parts: list[tuple[bool, str]]) -> str | None:
    """Return a whole number whose digits fill a pattern such as `000-00-0000` from the right."""
    places = sum(len(text) for is_digits, text in parts if is_digits)
    if value != int(value) or any(set(text) != {"0"} for is_digits, text in parts if is_digits):
        return None
    digits = str(int(abs(value))).zfill(places)
    if len(digits) > places:
        return None
    shown = ""
    for is_digits, text in parts:
        if is_digits:
            shown, digits = shown + digits[: len(text)], digits[len(text) :]
        else:
            shown += text
    return sign + shown.strip()
