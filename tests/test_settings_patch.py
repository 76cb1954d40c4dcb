"""Changed settings are written into ragtune.yaml without touching anything else."""

import subprocess
from pathlib import Path

import pytest
import yaml

from ragtune.errors import SettingsError
from ragtune_serving.benchmarking.settings_patch import as_patch, patched

TEXT = """# My settings.
sources:
  - folder:docs   # the manual
engine:
  # compiled models start slowly
  eager: true  # for now
  kv_cache_gib: 1

gateway:
  cache:
    entries: 5
"""


def test_a_value_is_replaced_in_its_line_and_comments_stay():
    text = patched(TEXT, {"engine.eager": "false"})
    assert text == TEXT.replace("eager: true  # for now", "eager: false  # for now")


def test_a_new_value_goes_into_its_section_and_a_new_section_to_the_end():
    text = patched(TEXT, {"engine.speculative_tokens": "4", "gateway.workers": "2", "load.seconds": "5"})
    assert yaml.safe_load(text) == {
        **yaml.safe_load(TEXT),
        "engine": {"eager": True, "kv_cache_gib": 1, "speculative_tokens": 4},
        "gateway": {"cache": {"entries": 5}, "workers": 2},
        "load": {"seconds": 5},
    }
    assert text.index("# My settings.") == 0
    assert "# compiled models start slowly" in text


def test_values_of_nested_sections_top_level_values_and_empty_files_work():
    assert yaml.safe_load(patched(TEXT, {"gateway.cache.entries": "0"}))["gateway"] == {"cache": {"entries": 0}}
    assert yaml.safe_load(patched(TEXT, {"gateway.limits.concurrency": "3"}))["gateway"]["limits"] == {"concurrency": 3}
    assert yaml.safe_load(patched(TEXT, {"seed": "3"}))["seed"] == 3
    assert patched("", {"engine.eager": "false"}) == "engine:\n  eager: false\n"


def test_a_file_that_cannot_be_changed_line_by_line_is_refused_with_the_values_to_set():
    with pytest.raises(SettingsError, match=r"set these values by hand: engine\.eager: false"):
        patched("engine: {eager: true}\n", {"engine.eager": "false"})


def test_the_patch_applies_with_the_usual_program(tmp_path: Path):
    file = tmp_path / "ragtune.yaml"
    file.write_text(TEXT)
    after = patched(TEXT, {"engine.eager": "false", "gateway.workers": "2"})
    patch = as_patch(TEXT, after, Path("ragtune.yaml"))
    subprocess.run(["patch", "-p0"], input=patch, text=True, check=True, cwd=tmp_path, capture_output=True)
    assert file.read_text() == after
