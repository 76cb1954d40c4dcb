"""The wheel, built from the sources and run outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("ragtune", "ragtune_assets", "ragtune_serving")
pytestmark = pytest.mark.wheel


def run(*command: str | Path, folder: Path) -> str:
    """Run a command in a folder, without this checkout on its path, and return what it prints."""
    names = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    result = subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    # A copy, because setuptools would leave its build folder in the checkout and pack stale files from it next time.
    copy, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", target, copy, folder=target)
    return next(target.glob("ragtune-*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A fresh environment with the wheel; its dependencies come from the environment of this test."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True, with_pip=False)
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    options = ("--no-deps", "--no-index", "--quiet", "--ignore-installed")
    run(sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", *options, wheel, folder=folder)
    # Appended to the path, so that the wheel's modules are found before the checkout's editable install. Import
    # hooks of editable installs are left out: `site` reads .pth files of the environment's own folder only.
    (purelib / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_holds_everything_that_is_not_code(environment):
    packaged = "import ragtune; from pathlib import Path; print(Path(ragtune.__file__).parent.parent)"
    installed = Path(run(environment / "bin/python", "-c", packaged, folder=environment).strip())
    assert installed.is_relative_to(environment)
    data = {
        file.relative_to(ROOT)
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {str(file) for file in data if not (installed / file).is_file()} == set()


def test_the_installed_command_creates_a_project_indexes_a_folder_and_finds_a_passage(environment, tmp_path):
    ragtune = environment / "bin" / "ragtune"
    run(ragtune, "init", "project", folder=tmp_path)
    project, documents = tmp_path / "project", tmp_path / "handbook"
    documents.mkdir()
    (documents / "leave.md").write_text("# Leave\n\nA request for leave is answered within three working days.\n")

    counts = json.loads(run(ragtune, "index", "--json", folder=project))
    assert counts["documents"] == 1  # the example that `init` writes
    counts = json.loads(run(ragtune, "index", "--source", f"folder:{documents}", "--json", folder=project))
    assert counts["added"] == 1
    hits = json.loads(run(ragtune, "search", "how fast is leave answered", "--json", folder=project))
    assert "three working days" in hits[0]["text"]
    assert (project / ".ragtune" / "index").is_dir()


def test_dagster_loads_the_asset_graph_from_the_files_in_the_wheel(environment, tmp_path):
    code = """
import os
from ragtune.settings import load_settings
from ragtune_assets.dagster_instance import open_instance
from ragtune_serving.commands.running import dagster_files, platform_programs
settings = load_settings()
with open_instance(settings):
    assert (dagster_files() / "workspace.yaml").is_file()
    assert os.environ["DAGSTER_HOME"] == str(dagster_files())
print(dagster_files())
"""
    assert run(environment / "bin/python", "-c", code, folder=tmp_path).startswith(str(environment))
