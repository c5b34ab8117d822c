"""What an installation holds: setup.cfg names every package folder, and a pattern for every file in one that is no module."""

from __future__ import annotations

from configparser import ConfigParser
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
DATA = {name: patterns.split() for name, patterns in SETUP["options.package_data"].items()}
PACKAGES = {
    ".".join(init.parent.relative_to(ROOT).parts): init.parent
    for init in (ROOT / "attention_refine").rglob("__init__.py")
} | {"attention_refine.hub_configs": ROOT / "hub_configs"}


def test_every_package_folder_is_installed():
    assert sorted(SETUP["options"]["packages"].split()) == sorted(PACKAGES)


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_every_data_file_is_installed(package):
    files = [file.name for file in PACKAGES[package].iterdir() if file.is_file() and file.suffix not in (".py", ".pyc")]
    left_out = [name for name in files if not any(fnmatch(name, pattern) for pattern in DATA.get(package, ()))]
    assert not left_out, f"not in setup.cfg's package_data for {package}: {', '.join(left_out)}"
