"""Measures how fast files are read, format by format, compared with markitdown and another checkout of RagTune.

    git worktree add --detach /tmp/before ea6e744
    python3.11 -m venv /tmp/peers
    /tmp/peers/bin/pip install 'markitdown[docx,pptx,xlsx,pdf]==0.1.8' beautifulsoup4==4.15.0
    python -m benchmarks.documents.speed --peers /tmp/peers/bin/python --before /tmp/before

markitdown, and BeautifulSoup, which older readers need, have an environment of their own: RagTune does not use them.
Both comparisons are optional. The readers take turns file by file, so that a slow minute of the machine hits all of
them. Pages are counted as 3,000 characters of the plain text, except in PDF files, which have pages. The whole takes
two to four minutes on two cores; `--files 1` shows in seconds whether everything is in place.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from functools import partial
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
_CHILD = """
import io, json, sys, time
sys.path.append({packages!r})  # last, so that the peers' own versions win
{reader}
print("ready", flush=True)
for line in sys.stdin:
    path = line.strip()
    raw = open(path, "rb").read()
    began = time.perf_counter()
    try:
        read(path, raw)
    except Exception as error:  # a format that it does not read, or a library that it lacks
        print(f"{{path}}: {{type(error).__name__}}: {{error}}"[:300], file=sys.stderr)
        print("null", flush=True)
        continue
    print(json.dumps(time.perf_counter() - began), flush=True)
"""
_BEFORE = """
sys.path.insert(0, {folder!r})
from ragtune.knowledge.readers import read_bytes as read
"""
_MARKITDOWN = """
from pathlib import Path
from markitdown import MarkItDown, StreamInfo
converter = MarkItDown(enable_plugins=False)
def read(path, raw):
    converter.convert_stream(io.BytesIO(raw), stream_info=StreamInfo(extension=Path(path).suffix, charset="utf-8"))
"""


def main() -> None:
    """Write the speeds to `speed.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=12, help="generated files per format")
    parser.add_argument("--pdf", nargs="*", type=Path, default=[], help="PDF files to read as well")
    parser.add_argument("--peers", type=Path, help="the interpreter of an environment with markitdown")
    parser.add_argument("--before", type=Path, help="another checkout of RagTune")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--seed", type=int, default=17)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [*generate(Path(folder), options.files, random.Random(options.seed)), *options.pdf]
        # Before other readers are imported. This also brings the files into the cache of the file system.
        pages = [page_count(path) for path in files]
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        rows = measure(files, pages, options.peers, options.before)
    result = {
        "command": " ".join(["python", "-m", "benchmarks.documents.speed", *sys.argv[1:]]),
        "machine": f"{platform.processor() or platform.machine()}, one process",
        "pages_per_second": rows,
        "peak_memory_mb_of_ragtune": memory,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
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
                parts.append(Part(kind, rows=rows, depths=(0,) * len(rows)))
        for suffix, write in {**{Path(name).suffix: write for name, write in FORMATS.items()}, ".pdf": as_pdf}.items():
            paths.append(folder / f"{number}{suffix}")
            paths[-1].write_bytes(write(parts))
    return paths


def as_pdf(parts: "Sequence[Part]") -> bytes:
    """Return the parts as a PDF of one column; a cell is a line of its own."""
    from tests.support.pdf_files import lines, pdf_file

    texts = [text for part in parts for text in (part.words, *(cell for row in part.rows for cell in row)) if text]
    wrapped = [line for text in texts for line in textwrap.wrap(text, 90)]
    pages = [wrapped[start : start + _LINES_PER_PAGE] for start in range(0, len(wrapped), _LINES_PER_PAGE)]
    return pdf_file([lines(page) for page in pages])


def measure(
    files: list[Path], page_counts: list[float], peers: Path | None, before: Path | None
) -> dict[str, dict[str, float]]:
    """Return pages a second by format and reader."""
    readers: dict[str, Callable[[Path], float]] = {"ragtune": read_and_audit, "ragtune without account": read_only}
    python = str(peers or sys.executable)
    children = {}
    if peers:
        children["markitdown"] = start_reader(python, _MARKITDOWN)
    if before:
        children["ragtune before"] = start_reader(python, _BEFORE.format(folder=str(before.resolve())))
    readers |= {name: partial(ask, child) for name, child in children.items()}
    # A first read imports libraries and builds parsers; it does not count.
    for path in {path.suffix: path for path in files}.values():
        for read in readers.values():
            read(path)
    seconds: dict[str, dict[str, float]] = {}
    pages: dict[str, float] = {}
    for path, count in zip(files, page_counts, strict=True):
        suffix = path.suffix
        pages[suffix] = pages.get(suffix, 0.0) + count
        for name, read in readers.items():
            by_format = seconds.setdefault(name, {})
            taken = read(path)
            by_format[suffix] = by_format.get(suffix, 0.0) + taken
    for child in children.values():
        child.terminate()
        child.wait()
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


def start_reader(python: str, reader: str) -> "subprocess.Popen[str]":
    """Start an interpreter that reads the files whose paths it gets, and answers with the seconds of each."""
    code = _CHILD.format(packages=sysconfig.get_path("purelib"), reader=reader)
    # Without PYTHONPATH, or this checkout would come before the other one.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-c", code]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tempfile.gettempdir(), env=environment
    )
    assert child.stdout is not None
    if child.stdout.readline().strip() != "ready":
        raise SystemExit(f"{python} cannot import a reader; its error is above. See the commands in --help.")
    return child


def ask(child: Any, path: Path) -> float:
    """Return the seconds that another reader takes for a file, or 0.0 if it cannot read it."""
    child.stdin.write(f"{path}\n")
    child.stdin.flush()
    return float(json.loads(child.stdout.readline()) or 0.0)


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
