"""Programs from packages: the installed one is used, a missing one is got once, or it is said why not."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import debian


def test_what_is_installed_is_used(tmp_path: Path) -> None:
    assert debian.program("dash", "/bin/sh", cache=tmp_path) == Path("/bin/sh")
    assert debian.library_path(Path("/bin/sh")) == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tool", ["apt-get", "dpkg-deb"])
def test_without_apt_a_test_is_skipped_and_says_why(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == tool else f"/usr/bin/{name}")
    with pytest.raises(pytest.skip.Exception, match=f"needs no-such, .* there is no {tool} to get it with"):
        debian.program("no-such", "/usr/bin/no-such", cache=tmp_path)


class Apt:
    """Stands for apt-get and dpkg-deb.

    Attributes:
        failing: How many runs fail.
        runs: What they were asked for.
    """

    def __init__(self, failing: int) -> None:
        self.failing = failing
        self.runs: list[str] = []

    def run(self, argv: list[object], **options: object) -> subprocess.CompletedProcess[str]:
        """Do what `subprocess.run` does."""
        words = [str(word) for word in argv]
        if words[0] == "dpkg-deb":
            for folder in ("bin", "lib/here"):
                Path(words[3], "usr", folder).mkdir(parents=True)
            Path(words[3], "usr/bin/tool").touch()
            Path(words[3], "usr/lib/here/lib.so.1").touch()
            return subprocess.CompletedProcess(words, 0)
        self.runs.append(" ".join(word for word in words if "=" not in word and word not in {"-o", "-q"}))
        if self.failing:
            self.failing -= 1
            return subprocess.CompletedProcess(words, 100, "", "E: there is no such package\n")
        if "download" in words:
            Path(str(options["cwd"]), "tool.deb").touch()
        return subprocess.CompletedProcess(words, 0, "", "")


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Apt:
    """Return an apt-get that fails as often as the test says."""
    made = Apt(getattr(request, "param", 0))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", made.run)
    return made


def test_a_package_is_got_once(apt: Apt, tmp_path: Path) -> None:
    for _ in range(2):
        found = debian.program("tool", "/usr/bin/tool", "libtool", cache=tmp_path)
        assert found.is_relative_to(tmp_path)
        assert found.exists()
        assert debian.library_path(found) == str(found.parents[1] / "lib" / "here")
    assert apt.runs == ["apt-get download tool libtool"]


@pytest.mark.parametrize("apt", [1], indirect=True)
def test_if_the_systems_lists_do_not_help_we_get_our_own(apt: Apt, tmp_path: Path) -> None:
    assert debian.program("tool", "/usr/bin/tool", cache=tmp_path).exists()
    assert apt.runs == ["apt-get download tool", "apt-get update", "apt-get download tool"]


@pytest.mark.parametrize("apt", [2], indirect=True)
def test_what_cannot_be_had_is_no_reason_to_skip(apt: Apt, tmp_path: Path) -> None:
    """A tool that could have been installed must be."""
    with pytest.raises(RuntimeError, match="update: E: there is no such package"):
        debian.program("tool", "/usr/bin/tool", cache=tmp_path)


def test_a_program_that_the_package_has_not_is_a_mistake(apt: Apt, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the package tool has no /usr/bin/other"):
        debian.program("tool", "/usr/bin/other", cache=tmp_path)
