"""The site of docs/ builds without a warning, and its pages load nothing from another host."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DECISIONS = sorted(path for path in (ROOT / "docs" / "decisions").glob("*.md") if path.stem != "index")
LOADING = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "form": ("action",),
}
"""Elements and attributes with which a page loads something, or sends it. A plain link (`a`) loads nothing."""
IN_STYLE = re.compile(r"url\(\s*[\"']?([^\"')\s]+)|@import\s+[\"']([^\"']+)")


class Loaded(HTMLParser):
    """Collects the addresses that a page loads from."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in LOADING.get(tag, ()) and value:
                self.addresses += [part.split()[0] for part in value.split(",")] if name == "srcset" else [value]
            if name == "style" and value:
                self.addresses += in_style(value)
            if name == "class" and value and "mermaid" in value.split():
                self.addresses.append("https://unpkg.com/mermaid")  # the theme fetches it for such an element


def in_style(text: str) -> list[str]:
    return [first or second for first, second in IN_STYLE.findall(text)]


def loaded_from(page: str) -> list[str]:
    parser = Loaded()
    parser.feed(page)
    styles = re.findall(r"<style[^>]*>(.*?)</style>", page, re.DOTALL)
    return parser.addresses + [address for style in styles for address in in_style(style)]


def is_elsewhere(address: str) -> bool:
    return bool(urlsplit(address).netloc)


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.example/a.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        '<img srcset="local.png 1x, http://img.example/a.png 2x">',
        "<style>@import 'https://fonts.example/css';</style>",
        '<p style="background: url(https://img.example/a.png)">',
        '<pre class="mermaid">',
    ],
)
def test_what_a_page_loads_from_another_host_is_found(page: str) -> None:
    assert any(map(is_elsewhere, loaded_from(page)))


def test_a_plain_link_and_a_local_script_load_nothing_from_another_host() -> None:
    page = '<a href="https://example.org">out</a><script src="../assets/a.js"></script><img src="data:image/png,x">'
    assert not any(map(is_elsewhere, loaded_from(page)))


def build(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    # Not with --quiet: that hides the warnings from --strict, too.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_and_no_style_sheet_loads_anything_from_another_host(site: Path) -> None:
    pages, styles = sorted(site.rglob("*.html")), sorted(site.rglob("*.css"))
    sources = sorted((ROOT / "docs").rglob("*.md"))
    assert len(pages) >= len(sources), "a page is missing"
    addresses = {page.name: loaded_from(page.read_text()) for page in pages}
    addresses |= {style.name: in_style(style.read_text()) for style in styles}
    outside = {name: [one for one in found if is_elsewhere(one)] for name, found in addresses.items()}
    assert {name: found for name, found in outside.items() if found} == {}


@pytest.mark.parametrize("link", ["[gone](nowhere.md)", "[gone](api.md#nowhere)", "[gone](../nowhere.md)"])
def test_a_broken_link_breaks_the_build(link: str, tmp_path: Path) -> None:
    for part in ("docs", "benchmarks/retrieval", "ragtune/model/smollm2_grounded"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("*.json", "*.py", "*.safetensors"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    page = tmp_path / "docs" / "settings.md"
    page.write_text(f"{page.read_text()}\n{link}\n")
    assert build(tmp_path, tmp_path / "site").returncode == 1


def test_the_benchmarks_and_the_card_of_the_model_are_pages_of_the_site(site: Path) -> None:
    assert "hybrid without looking up names" in (site / "measured" / "retrieval.html").read_text()
    assert "answerable refused" in (site / "measured" / "default-model.html").read_text()


@pytest.mark.parametrize("page", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_its_parts_in_order_and_a_table_for_its_numbers(page: Path) -> None:
    text = page.read_text()
    parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert [part for part in parts if part != "Numbers"] == ["Context", "Decision", "What would change it"]
    if "Numbers" in parts:
        numbers = text.partition("## Numbers")[2].partition("\n## ")[0]
        assert "|---" in numbers or "](" in numbers


def test_every_decision_that_a_file_names_exists() -> None:
    folders = ("ragtune", "ragtune_assets", "ragtune_serving", "tests", "benchmarks", "docs")
    files = [path for folder in folders for kind in ("*.py", "*.md") for path in (ROOT / folder).rglob(kind)]
    named = {name for path in files for name in re.findall(r"docs/decisions/([\w-]+)\.md", path.read_text())}
    assert named
    assert named <= {page.stem for page in DECISIONS} | {"index"}


def test_the_navigation_lists_every_page() -> None:
    class Loader(yaml.SafeLoader):
        """Reads mkdocs.yml, whose `!relative` only mkdocs knows."""

    Loader.add_constructor("!relative", lambda loader, node: loader.construct_scalar(node))
    entries: list[object] = [yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"]]
    pages = set()
    while entries:
        entry = entries.pop()
        if isinstance(entry, str):
            pages.add(entry)
        else:
            entries += entry.values() if isinstance(entry, dict) else entry
    docs = ROOT / "docs"
    assert pages == {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
