"""A release, up to what only a person does: pushing the tag and uploading.

python release.py 0.2.0 [--tag]

Checks that the repository is clean and its changelog has something to release, writes the version and the date, builds
wheel and sdist, has twine look at them, installs the wheel in a clean environment and uses it there. ``--tag`` commits
and tags. Whatever fails before that leaves the repository as it was. Needs ``pip install -e ".[dev]"``.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent
VERSION = ROOT / "attention_refine" / "version.py"
CHANGELOG = ROOT / "CHANGELOG.md"
CITATION = ROOT / "CITATION.cff"
TRIAL = """
import attention_refine as ar, timm, torch
assert ar.__version__ == "{version}", ar.__version__
model = ar.wrap(timm.create_model("resnet18", num_classes=3), head="abn").eval()
print(model(torch.zeros(1, 3, 64, 64), compute_losses=False))
"""


def run(*command: object, cwd: Path = ROOT) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout.strip()


def released(version: str, today: datetime.date, files: dict[Path, str]) -> dict[Path, str]:
    """The texts of the files that hold the version, with the new one.

    Raises:
        SystemExit: no version that follows the one there is, or a changelog that has nothing under "unreleased".
    """
    numbers = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", version)
    if not numbers:
        raise SystemExit(f"version {version!r} is not of the form 1.2.3")
    now = re.search(r'__version__ = "(\d+)\.(\d+)\.(\d+)"', files[VERSION])
    if tuple(map(int, numbers.groups())) < tuple(map(int, now.groups())):
        raise SystemExit(f"version {version} comes before {'.'.join(now.groups())}, which the package has")
    heading = re.search(r"^## .*\(?unreleased\)?.*$", files[CHANGELOG], re.MULTILINE | re.IGNORECASE)
    if not heading or not re.match(r"\s*###", files[CHANGELOG][heading.end() :]):
        raise SystemExit(
            "CHANGELOG.md has nothing under a heading '## 1.2.3 (unreleased)': there is nothing to release"
        )
    return {
        VERSION: files[VERSION].replace(now.group(0), f'__version__ = "{version}"'),
        CHANGELOG: files[CHANGELOG].replace(heading.group(0), f"## {version} ({today.isoformat()})", 1),
        CITATION: re.sub(r"^version: .*$", f"version: {version}", files[CITATION], flags=re.MULTILINE),
    }


def check_distributions(folder: Path, version: str) -> None:
    """twine's word on both, and the wheel used in an environment that holds nothing else."""
    made = sorted(folder.iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *made)
    venv.create(folder / "clean", with_pip=True)
    python = folder / "clean" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-m", "pip", "install", "-q", *(each for each in made if each.suffix == ".whl"))
    print(run(python, "-c", TRIAL.format(version=version), cwd=folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", help="of the release, as 0.2.0")
    parser.add_argument("--tag", action="store_true", help="commit and tag it")
    given = parser.parse_args()
    if run("git", "status", "--porcelain"):
        raise SystemExit("the repository has changes that are not committed; commit or stash them")
    before = {path: path.read_text(encoding="utf-8") for path in (VERSION, CHANGELOG, CITATION)}
    try:
        for path, text in released(given.version, datetime.date.today(), before).items():
            path.write_text(text, encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
            check_distributions(Path(folder), given.version)
        if given.tag:
            run("git", "commit", "-qam", f"Version {given.version}")
            run("git", "tag", "-a", f"v{given.version}", "-m", f"Version {given.version}")
            print(f"tagged; to publish: git push --follow-tags, then build and upload v{given.version}")
            return
    except BaseException:
        for path, text in before.items():
            path.write_text(text, encoding="utf-8")
        raise
    for path, text in before.items():
        path.write_text(text, encoding="utf-8")
    print("wheel and sdist are right; nothing was kept. --tag commits and tags")


if __name__ == "__main__":
    main()
