"""The release script: what it writes, and what it refuses before anything is written."""

import datetime
import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "release.py"
DAY = datetime.date(2027, 1, 2)


@pytest.fixture(scope="module")
def release():
    spec = importlib.util.spec_from_file_location("release", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def files(release):
    return {path: path.read_text(encoding="utf-8") for path in (release.VERSION, release.CHANGELOG, release.CITATION)}


def test_version_changelog_and_citation_follow(release, files):
    made = release.released("3.1.4", DAY, files)
    assert '__version__ = "3.1.4"' in made[release.VERSION]
    assert "\n## 3.1.4 (2027-01-02)\n" in made[release.CHANGELOG] and "unreleased" not in made[release.CHANGELOG]
    assert "\nversion: 3.1.4\n" in made[release.CITATION]
    for path, text in files.items():  # and nothing else is another
        assert len(set(text.splitlines()) ^ set(made[path].splitlines())) == 2


@pytest.mark.parametrize("version", ["3.1", "v3.1.4", "3.1.4rc1", "0.0.1"])
def test_no_version_or_an_earlier_one_is_refused(release, files, version):
    with pytest.raises(SystemExit, match=version):
        release.released(version, DAY, files)


def test_a_changelog_without_anything_new_is_refused(release, files):
    done = release.released("3.1.4", DAY, files)
    with pytest.raises(SystemExit, match="nothing to release"):
        release.released("3.1.5", DAY, done)
    files[release.CHANGELOG] = "# Changelog\n\n## 0.2.0 (unreleased)\n\n## 0.1.0\n"
    with pytest.raises(SystemExit, match="nothing to release"):
        release.released("0.2.0", DAY, files)
