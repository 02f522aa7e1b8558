"""``make release-check``: a tree that is ready passes, and each disagreement is found, with its place."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cartsvc.version import __version__
from tests.project.release_check import Check, check, main

_ROOT = Path(__file__).parents[2]
_FILES = (
    "pyproject.toml",
    "CHANGELOG.md",
    "Dockerfile",
    "cartsvc/version.py",
    *(path.name for path in _ROOT.glob("requirements*.txt")),
)
_FOLDERS = ("docs/openapi", "deploy")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what is checked, in a repository of its own, with the changelog of a release."""
    for name in _FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(_ROOT / name, tmp_path / name)
    for name in _FOLDERS:
        if (_ROOT / name).exists():
            shutil.copytree(_ROOT / name, tmp_path / name)
    (tmp_path / "deploy" / "more").mkdir(parents=True)
    (tmp_path / "deploy/more/pod.yaml").write_text(
        f"containers:\n  - image: cartsvc:{__version__}\n  - image: registry.example/shop/cartsvc:{__version__}\n"
        "  - image: valkey/valkey:8\n"
    )
    _edit(
        tmp_path,
        "CHANGELOG.md",
        r"## \[Unreleased\]\n+.*?(?=\n### )",
        f"## [Unreleased]\n\n## [{__version__}] - 2026-11-26\n",
    )
    _git(tmp_path, "init", "--quiet")
    _commit(tmp_path)
    return tmp_path


def _edit(tree: Path, file: str, old: str, new: str) -> None:
    text = (tree / file).read_text()
    changed = re.sub(old, new, text, count=1, flags=re.DOTALL)
    assert changed != text
    (tree / file).write_text(changed)


def _git(tree: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tree, check=True)


def _commit(tree: Path) -> None:
    _git(tree, "commit", "--quiet", "--allow-empty", "--message", "Commit")


def _failed(tree: Path) -> list[Check]:
    return [each for each in check(tree) if each.faults]


def test_a_tree_that_is_ready_passes(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each check, and exit code 0; the tag may already be this commit."""
    _git(tree, "tag", f"v{__version__}")
    with pytest.raises(SystemExit) as ended:
        main(tree)
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"ok      version {__version__}"
    assert len(lines) == 7
    assert {line[:8] for line in lines} == {"ok      "}


_VERSION = re.escape(__version__)
_BREAKS = {
    "version": ("cartsvc/version.py", r'"\d+.*?"', '"1.0"', "not of the form 1.2.3"),
    "entries left": (
        "CHANGELOG.md",
        r"## \[Unreleased\]\n",
        "## [Unreleased]\n\n- **More**\n",
        "Unreleased without entries",
    ),
    "no Unreleased": ("CHANGELOG.md", r"## \[Unreleased\]\n", "", "needs a section Unreleased"),
    "no section": ("CHANGELOG.md", rf"## \[{_VERSION}\]", "## [0.0.9]", f"is not that of {__version__}"),
    "no date": ("CHANGELOG.md", r"\] - 2026-11-26", "]", "has no date"),
    "no entries": ("CHANGELOG.md", r"(\] - 2026-11-26\n).*", r"\1", "has no entries"),
    "no pin": ("requirements.txt", r"\nredis==", "\nredis-other==", "no pin for redis[hiredis]"),
    "an old pin": (
        "requirements-dev.txt",
        r"\ngunicorn==\S+",
        "\ngunicorn==1.0",
        "requirements-dev.txt: no pin for gunicorn",
    ),
    "no exact pin": ("requirements-otel.txt", r"\nflask==", "\nflask>=", "requirements-otel.txt: no exact pin"),
    "label": (
        "Dockerfile",
        rf'version="{_VERSION}"',
        'version="0.0.9"',
        "Dockerfile: org.opencontainers.image.version is 0.0.9",
    ),
    "document": (
        "docs/openapi/openapi.json",
        rf'"version": "{_VERSION}"',
        '"version": "0.0.9"',
        "docs/openapi/openapi.json: info.version is 0.0.9",
    ),
    "manifest": (
        "deploy/more/pod.yaml",
        rf"example/shop/cartsvc:{_VERSION}",
        "example/shop/cartsvc:0.0.9",
        "deploy/more/pod.yaml: image cartsvc has the tag 0.0.9",
    ),
    "no tag of an image": ("deploy/more/pod.yaml", rf": cartsvc:{_VERSION}", ": cartsvc", "has the tag (none)"),
}


@pytest.mark.parametrize(("file", "old", "new", "fault"), _BREAKS.values(), ids=_BREAKS)
def test_a_disagreement_is_found(file: str, old: str, new: str, fault: str, tree: Path) -> None:
    """With its place."""
    _edit(tree, file, old, new)
    found = [line for each in _failed(tree) for line in each.faults]
    assert [line for line in found if fault in line] != []
    assert (len(found) == 1) == (file != "cartsvc/version.py")  # with another version, all else disagrees


def test_a_tag_of_another_commit_is_found(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It cannot be moved, because others may have it; a version is released once."""
    _git(tree, "tag", "--annotate", "--message", "Release", f"v{__version__}")
    _commit(tree)
    with pytest.raises(SystemExit) as ended:
        main(tree)
    assert ended.value.code == 1
    assert re.fullmatch(
        rf"FAILED  tag v{_VERSION}: is another commit, \w{{12}}", capsys.readouterr().out.splitlines()[-1]
    )


def test_a_tree_without_a_repository_cannot_be_tagged(tree: Path) -> None:
    """As one that was unpacked from an archive."""
    shutil.rmtree(tree / ".git")
    assert [str(each) for each in _failed(tree)] == [f"FAILED  tag v{__version__}: there is no git repository"]


def test_only_the_changelog_waits_for_a_release() -> None:
    """Everything else agrees in every commit."""
    assert {each.what for each in _failed(_ROOT)} <= {"changelog", f"tag v{__version__}"}
