"""What stands on a PDF page and not in its text: the values of form fields, words written over it, comments, links."""

import ctypes
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ragtune.records import LeftOut
from ragtune.text.whitespace import collapse_whitespace

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage

_LINE_END = re.compile(r"\r\n?|\n")
# How the lines of a box are placed: below its upper edge, in units of the size of their type.
_FIRST_BASE, _LINE_STEP = 0.9, 1.2
_USUAL_SIZE = 10.0  # of the type in points, if a box has several lines or none fits


@dataclass(frozen=True, slots=True)
class PlacedText:
    """A line that is written over the page; places in points, from the left and the bottom of the page."""

    text: str
    left: float
    right: float
    base: float
    size: float


def page_annotations(document: "PdfDocument", page: "PdfPage") -> tuple[list[PlacedText], list[LeftOut]]:
    """Return what is written over a page, and what is not shown on it: comments and the addresses of links.

    The document's forms must have been initialised if it has any.
    """
    from pypdfium2 import raw

    shown: list[PlacedText] = []
    left_out: list[LeftOut] = []
    for number in range(raw.FPDFPage_GetAnnotCount(page)):
        annotation = raw.FPDFPage_GetAnnot(page, number)
        try:
            kind = raw.FPDFAnnot_GetSubtype(annotation)
            if raw.FPDFAnnot_GetFlags(annotation) & (raw.FPDF_ANNOT_FLAG_HIDDEN | raw.FPDF_ANNOT_FLAG_NOVIEW):
                continue
            contents = _string(raw.FPDFAnnot_GetStringValue, annotation, b"Contents")
            if kind == raw.FPDF_ANNOT_WIDGET:
                shown += _placed(_field_value(document, annotation), annotation)
            elif kind == raw.FPDF_ANNOT_FREETEXT:
                shown += _placed(contents, annotation)
            elif kind == raw.FPDF_ANNOT_LINK:
                address = _address(document, annotation)
                left_out += [LeftOut(reason="link target", text=address)] if address else []
            elif kind != raw.FPDF_ANNOT_POPUP and contents.strip():  # a popup shows the comment it belongs to
                left_out.append(LeftOut(reason="comment", text=collapse_whitespace(contents)))
        finally:
            raw.FPDFPage_CloseAnnot(annotation)
    return shown, left_out


def _field_value(document: "PdfDocument", annotation: Any) -> str:
    """Return what a form field shows: its text, or whether it is ticked."""
    from pypdfium2 import raw

    if document.formenv is None:
        return ""
    form = document.formenv.raw
    kind = raw.FPDFAnnot_GetFormFieldType(form, annotation)
    if kind in (raw.FPDF_FORMFIELD_CHECKBOX, raw.FPDF_FORMFIELD_RADIOBUTTON):
        return "[x]" if raw.FPDFAnnot_IsChecked(form, annotation) else "[ ]"
    if kind in (raw.FPDF_FORMFIELD_TEXTFIELD, raw.FPDF_FORMFIELD_COMBOBOX, raw.FPDF_FORMFIELD_LISTBOX):
        return _string(raw.FPDFAnnot_GetFormFieldValue, form, annotation)
    return ""


def _placed(text: str, annotation: Any) -> Iterator[PlacedText]:
    """Yield the lines of a text at their places in the annotation's box."""
    from pypdfium2 import raw

    box = raw.FS_RECTF()
    lines = [line for line in map(collapse_whitespace, _LINE_END.split(text)) if line]
    if not lines or not raw.FPDFAnnot_GetRect(annotation, box):
        return
    height = (box.top - box.bottom) / len(lines) / _LINE_STEP
    size = min(height, _USUAL_SIZE) if height > 1 else _USUAL_SIZE
    for number, line in enumerate(lines):
        # The one line of a field stands in the middle of its height.
        middle = (box.top + box.bottom - 0.7 * size) / 2
        base = middle if len(lines) == 1 else box.top - size * (_FIRST_BASE + number * _LINE_STEP)
        yield PlacedText(line, box.left, box.right, base, size)


def _address(document: "PdfDocument", annotation: Any) -> str:
    from pypdfium2 import raw

    link = raw.FPDFAnnot_GetLink(annotation)
    action = raw.FPDFLink_GetAction(link) if link else None
    if not action:
        return ""
    length = raw.FPDFAction_GetURIPath(document, action, None, 0)
    buffer = ctypes.create_string_buffer(length)
    raw.FPDFAction_GetURIPath(document, action, buffer, length)
    return buffer.value.decode("utf-8", "replace")


def _string(function: Any, *arguments: Any) -> str:
    """Return the string that a function of PDFium writes into a buffer as UTF-16, ended by two zero bytes."""
    from pypdfium2 import raw

    length = function(*arguments, None, 0)
    buffer = ctypes.create_string_buffer(length)
    function(*arguments, ctypes.cast(buffer, ctypes.POINTER(raw.FPDF_WCHAR)), length)
    return buffer.raw[:length].decode("utf-16-le", "replace").rstrip("\0")
