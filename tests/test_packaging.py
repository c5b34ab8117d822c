"""What an installation holds: setup.cfg names every package folder, and a pattern for every file in one that is no module.

Then wheel and sdist themselves: built, checked by twine, and the wheel used outside the repository."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import zipfile
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


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> Path:
    """Wheel and sdist, the wheel from the sdist, of a copy of what is in the repository."""
    for module in ("build", "twine"):
        pytest.importorskip(
            module, reason='wheel and sdist are built and checked with: pip install "attention-refine[dev]"'
        )
    if int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("setuptools 77 is needed to build without a network")
    source = tmp_path_factory.mktemp("source")
    for folder in ("attention_refine", "hub_configs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", source / "dist", source)
    return source / "dist"


def run(*command: object, **options) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_wheel_and_sdist_pass_twines_check_and_hold_the_same_modules(distributions):
    run(sys.executable, "-m", "twine", "check", "--strict", *distributions.iterdir())
    (wheel,) = distributions.glob("*.whl")
    (sdist,) = distributions.glob("*.tar.gz")
    in_wheel = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("attention_refine/")}
    with tarfile.open(sdist) as packed:
        in_sdist = {name.partition("/")[2] for name in packed.getnames()}
    modules = {file.relative_to(ROOT).as_posix() for file in (ROOT / "attention_refine").rglob("*.py")}
    assert modules <= in_wheel and modules <= in_sdist
    assert {
        f"attention_refine/hub_configs/{file.name}" for file in (ROOT / "hub_configs").iterdir() if file.is_file()
    } <= in_wheel


def test_the_wheel_works_outside_the_repository(distributions, tmp_path):
    """In a fresh environment; what it requires comes from this one, by path, so nothing is fetched."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "fresh")
    python = tmp_path / "fresh" / "bin" / "python"
    (wheel,) = distributions.glob("*.whl")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    (packages,) = (tmp_path / "fresh").rglob("site-packages")
    (packages / "required.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
    code = "import attention_refine as ar; print(ar.__file__); from attention_refine.cli import main; main(['finetune', '--list'])"
    said = run(python, "-c", code, cwd=tmp_path)
    assert said.startswith(str(packages)) and "repair_folder" in said and "abn_shapes" in said
    assert (python.parent / "attention-refine").exists()


def test_every_extra_is_listed_in_the_installation_page():
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert not [extra for extra in SETUP["options.extras_require"] if f"| `{extra}` |" not in page]
