"""Measures how fast files are read, format by format: `python -m benchmarks.documents.speed`.

Reads the same files with RagTune's readers and, if they are installed or named, with markitdown and with another
checkout of RagTune (`--before FOLDER`). The readers take turns file by file, so that a slow minute of the machine
hits all of them. Pages are counted as 3,000 characters of the plain text, except in PDF files, which have pages. The
whole takes two to four minutes on two cores.
"""

import argparse
import io
import json
import platform
import random
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragtune.knowledge.audit import audit
from ragtune.knowledge.readers.files import read_bytes

if TYPE_CHECKING:
    from tests.test_round_trips import Part

RESULT = Path(__file__).with_suffix(".json")
CHARACTERS_PER_PAGE = 3_000
_LINES_PER_PAGE = 44
_WORDS_TEXT = "harbour gate keeper lamp rope tide ferry crane bell winch buoy chart mast sail anchor pier dock hull"
_WORDS = _WORDS_TEXT.split()
_BEFORE = """
import sys, time, json
sys.path.insert(0, sys.argv[1])
from ragtune.knowledge.readers import read_bytes
for line in sys.stdin:
    path = line.strip()
    raw = open(path, "rb").read()
    began = time.perf_counter()
    read_bytes(path, raw)
    print(json.dumps(time.perf_counter() - began), flush=True)
"""


def main() -> None:
    """Write the speeds to `speed.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=12, help="generated files per format")
    parser.add_argument("--pdf", nargs="*", type=Path, default=[], help="PDF files to read as well")
    parser.add_argument("--before", type=Path, help="another checkout of RagTune")
    parser.add_argument("--seed", type=int, default=17)
    options = parser.parse_args()
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        files = [*generate(Path(folder), options.files, random.Random(options.seed)), *options.pdf]
        # Before other readers are imported. This also brings the files into the cache of the file system.
        pages = [page_count(path) for path in files]
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        rows = measure(files, pages, options.before)
    result = {
        "command": " ".join(["python", "-m", "benchmarks.documents.speed", *sys.argv[1:]]),
        "machine": f"{platform.processor() or platform.machine()}, one process",
        "pages_per_second": rows,
        "peak_memory_mb_of_ragtune": memory,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def generate(folder: Path, count: int, rng: random.Random) -> list[Path]:
    """Write `count` documents of some ten pages in every format and return their paths."""
    from tests.test_round_trips import FORMATS, Part

    paths = []
    for number in range(count):
        parts = []
        for _ in range(60):
            sentence = " ".join(rng.choices(_WORDS, k=80)).capitalize()
            kind = rng.choice(["heading", "paragraph", "paragraph", "list", "table", "code"])
            if kind in ("heading", "paragraph"):
                parts.append(Part(kind, sentence[:60] if kind == "heading" else sentence))
            else:
                width = 3 if kind == "table" else 1
                rows = tuple(tuple(" ".join(rng.choices(_WORDS, k=8)) for _ in range(width)) for _ in range(8))
                parts.append(Part(kind, rows=rows))
        for name, write in FORMATS.items():
            path = folder / f"{number}{Path(name).suffix}"
            path.write_bytes(write(parts))
            paths.append(path)
        paths.append(folder / f"{number}.pdf")
        paths[-1].write_bytes(as_pdf(parts))
    return paths


def as_pdf(parts: "Sequence[Part]") -> bytes:
    """Return the parts as a PDF of one column; a cell is a line of its own."""
    from tests.support.pdf_files import lines, pdf_file

    texts = [text for part in parts for text in (part.words, *(cell for row in part.rows for cell in row)) if text]
    wrapped = [line for text in texts for line in textwrap.wrap(text, 90)]
    pages = [wrapped[start : start + _LINES_PER_PAGE] for start in range(0, len(wrapped), _LINES_PER_PAGE)]
    return pdf_file([lines(page) for page in pages])


def measure(files: list[Path], page_counts: list[float], before: Path | None) -> dict[str, dict[str, float]]:
    """Return pages a second by format and reader."""
    readers: dict[str, Callable[[Path], float]] = {"ragtune": read_and_audit, "ragtune without account": read_only}
    if markitdown := markitdown_reader():
        readers["markitdown"] = markitdown
    child = None
    if before:
        command = [sys.executable, "-c", _BEFORE, str(before)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=before)
        readers["ragtune before"] = lambda path: ask(child, path)
    seconds: dict[str, dict[str, float]] = {}
    pages: dict[str, float] = {}
    for path, count in zip(files, page_counts, strict=True):
        suffix = path.suffix
        pages[suffix] = pages.get(suffix, 0.0) + count
        for name, read in readers.items():
            by_format = seconds.setdefault(name, {})
            taken = read(path)
            by_format[suffix] = by_format.get(suffix, 0.0) + taken
    if child:
        child.terminate()
    return {
        suffix: {name: round(count / by[suffix], 1) for name, by in seconds.items() if by[suffix] > 0}
        for suffix, count in pages.items()
    }


def read_and_audit(path: Path) -> float:
    """Return the seconds of reading a file and accounting for its words."""
    raw = path.read_bytes()
    began = time.perf_counter()
    audit(path.name, raw, read_bytes(path.name, raw))
    return time.perf_counter() - began


def read_only(path: Path) -> float:
    """Return the seconds of reading a file."""
    raw = path.read_bytes()
    began = time.perf_counter()
    read_bytes(path.name, raw)
    return time.perf_counter() - began


def markitdown_reader() -> Callable[[Path], float] | None:
    """Return markitdown's reader, or None if it is not installed."""
    try:
        from markitdown import MarkItDown, MarkItDownException, StreamInfo
    except ImportError:
        return None
    converter = MarkItDown(enable_plugins=False)

    def read(path: Path) -> float:
        raw = path.read_bytes()
        began = time.perf_counter()
        try:
            converter.convert_stream(io.BytesIO(raw), stream_info=StreamInfo(extension=path.suffix, charset="utf-8"))
        except MarkItDownException:
            return 0.0  # it lacks the extra for this format
        return time.perf_counter() - began

    return read


def ask(child: Any, path: Path) -> float:
    """Return the seconds that the other checkout takes for a file, 0.0 if it has no reader for it."""
    if path.suffix not in (".md", ".rst", ".txt", ".html", ".pdf", ".docx"):
        return 0.0
    child.stdin.write(f"{path}\n")
    child.stdin.flush()
    return float(json.loads(child.stdout.readline()))


def page_count(path: Path) -> float:
    """Return the pages of a file."""
    if path.suffix == ".pdf":
        import pypdfium2

        document = pypdfium2.PdfDocument(path)
        count = len(document)
        document.close()
        return count
    return len(read_bytes(path.name, path.read_bytes()).text) / CHARACTERS_PER_PAGE


if __name__ == "__main__":
    main()
