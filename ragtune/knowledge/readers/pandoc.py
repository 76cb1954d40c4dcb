"""Formats that pandoc reads, if it is installed: OpenDocument, EPUB, LaTeX, DocBook, Org, Textile, MediaWiki.

pandoc runs as a process of its own, without access to other files, and with a limit of time and of memory.
"""

import shutil
import subprocess
from pathlib import PurePosixPath

from ragtune.knowledge.readers.dom import DomReader, parse_page
from ragtune.knowledge.readers.elements import text_of
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.text.whitespace import collapse_whitespace

FORMATS = {
    ".odt": "odt",
    ".epub": "epub",
    ".tex": "latex",
    ".latex": "latex",
    ".dbk": "docbook",
    ".docbook": "docbook",
    ".org": "org-special_strings",
    ".textile": "textile-smart",
    ".wiki": "mediawiki",
    ".mediawiki": "mediawiki",
}
"""pandoc's name of the format, by the ending of the file; it must not turn `--force` into a dash and a word.

RTF is not among them: pandoc 3.9 drops the footnotes of an RTF file.
"""
# Both chosen by hand: a book of 600 pages takes pandoc a few seconds and some 200 MB. A file that was made to harm
# takes any time and memory that it gets.
LONGEST_SECONDS = 60
MOST_MEGABYTES = 1024
_LAST_WORDS = 300


def read_with_pandoc(path: str, raw: bytes) -> Reading:
    """Return a file that pandoc converts to HTML; its ending says the format.

    Raises UnreadableError if pandoc is not installed, fails, or takes more than `LONGEST_SECONDS` seconds or
    `MOST_MEGABYTES` MiB of heap.
    """
    ending = PurePosixPath(path).suffix.lower()
    pandoc = shutil.which("pandoc")
    if pandoc is None:
        raise UnreadableError(
            f"{ending} files are read by pandoc, which is not installed; install pandoc 2.15 or later (`apt install "
            "pandoc`, or https://pandoc.org/installing.html) so that `pandoc` is on the PATH, and read the source again"
        )
    # `--sandbox` keeps it from reading other files; mathematics stay as TeX, which people type and search for.
    command = [pandoc, f"--from={FORMATS[ending]}", "--to=html5", "--standalone", "--sandbox", "--mathjax"]
    try:
        result = subprocess.run(
            [*command, "--wrap=none", "+RTS", f"-M{MOST_MEGABYTES}m", "-RTS"],
            input=raw,
            capture_output=True,
            timeout=LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnreadableError(f"pandoc took more than the {LONGEST_SECONDS} seconds that one file may take") from error
    except OSError as error:
        raise UnreadableError(f"pandoc cannot be started: {error}") from error
    if result.returncode != 0:
        words = collapse_whitespace(result.stderr.decode("utf-8", "replace"))[-_LAST_WORDS:]
        limit = f" (it may use {MOST_MEGABYTES} MiB)" if "heap" in words.lower() else ""
        raise UnreadableError(f"pandoc cannot read it{limit}: {words or f'it ended with code {result.returncode}'}")
    root = parse_page(result.stdout.decode("utf-8", "replace"))
    title = next((collapse_whitespace(text_of(node)) for node in root.iter("title")), "")
    reader = DomReader()
    blocks = reader.read(root.find("body")) if root.find("body") is not None else []
    # Without a title, pandoc puts `-`, the name of its input, in its place.
    return Reading(blocks=tuple(blocks), title="" if title == "-" else title, left_out=tuple(reader.left_out))
