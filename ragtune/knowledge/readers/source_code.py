"""Source code: the file as code, cut before every definition at the left margin."""

import re
from pathlib import PurePosixPath

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.encoding import decode
from ragtune.knowledge.readers.marks import code_block
from ragtune.knowledge.readers.reading import Reading

LANGUAGES = {
    ".py": "python", ".pyi": "python", ".js": "javascript", ".mjs": "javascript", ".jsx": "jsx", ".ts": "typescript",
    ".tsx": "tsx", ".java": "java", ".kt": "kotlin", ".scala": "scala", ".c": "c", ".h": "c", ".cc": "cpp",
    ".cpp": "cpp", ".hpp": "cpp", ".cs": "csharp", ".go": "go", ".rs": "rust", ".rb": "ruby", ".php": "php",
    ".pl": "perl", ".lua": "lua", ".r": "r", ".jl": "julia", ".swift": "swift", ".sh": "bash", ".bash": "bash",
    ".ps1": "powershell", ".sql": "sql", ".proto": "protobuf", ".tf": "hcl",
}  # fmt: skip
_JOINT = re.compile(r"\n(?:[ \t]*\n)+(?=\S)")


def read_source_code(path: str, raw: bytes) -> Reading:
    """Return a source file; its title is its name, for that is what people call it."""
    pure = PurePosixPath(path)
    language = LANGUAGES[pure.suffix.lower()]
    parts = _JOINT.split(decode(raw))
    blocks = (Block("code", code_block(part, language)) for part in parts)
    return Reading(blocks=tuple(block for block in blocks if block.text), title=pure.name)
