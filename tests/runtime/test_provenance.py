"""What is recorded of the code: its own commit, never another repository's, and without a lock."""

import shutil
import subprocess
from pathlib import Path

import pytest

from runtime import provenance
from runtime.provenance import git_revision

ROOT = Path(__file__).parents[2]


def git(folder, *words):
    plain = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *plain, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A checkout that holds only what git_revision looks at."""
    folder = tmp_path / "outer" / "code"
    folder.mkdir(parents=True)
    (folder / "runtime").mkdir()
    shutil.copy(ROOT / "utils.py", folder)
    monkeypatch.setattr(provenance, "__file__", str(folder / "runtime" / "provenance.py"))
    return folder


def commit(folder):
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "all")
    return git(folder, "rev-parse", "HEAD")


def test_own_commit_and_whether_anything_changed(code):
    assert git_revision() == ""  # no repository at all
    head = commit(code)
    assert git_revision() == head
    (code / "utils.py").write_text("changed")
    assert git_revision() == head + "+"


def test_a_repository_around_the_code_says_nothing_of_it(code, monkeypatch):
    head = commit(code.parent)
    assert git_revision() == ""
    own = commit(code)
    monkeypatch.setenv("GIT_DIR", str(code.parent / ".git"))  # as inside a hook of the outer one
    assert git_revision() == own != head


def test_no_lock_is_taken(code):
    """The index stays as it is though a file's time is new, which a plain ``git status`` writes
    into it.
    """
    head = commit(code)
    index = (code / ".git" / "index").read_bytes()
    (code / "utils.py").touch()
    (code / ".git" / "index.lock").touch()
    assert git_revision() == head
    assert (code / ".git" / "index").read_bytes() == index
