"""``make release-check``: check that everything that names the version agrees, before it is tagged.

Prints a line per check, and exits with 1 if one fails.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.support.pins import needed, unpinned

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[2]
_VERSION_FILE, _CHANGELOG, _DOCKERFILE = "cartsvc/version.py", "CHANGELOG.md", "Dockerfile"
_SECTION = re.compile(r"^## \[([^\n]+?)\]([^\n]*)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_IMAGE = re.compile(r"^[ -]*image: *\"?(?:\S+/)?cartsvc(?::([^\s\"@]+))?", re.MULTILINE)


class Check(NamedTuple):
    """One line of the output: what was checked, and the place and nature of each disagreement."""

    what: str
    faults: list[str]

    def __str__(self) -> str:
        return f"ok      {self.what}" if not self.faults else f"FAILED  {self.what}: {'; '.join(self.faults)}"


def check(root: Path) -> list[Check]:
    """Return the checks of a source tree, whose version is the one in cartsvc/version.py."""
    found = re.search(r'^__version__ = "(.*)"$', (root / _VERSION_FILE).read_text(), re.MULTILINE)
    version = found[1] if found else ""
    is_release = re.fullmatch(r"\d+\.\d+\.\d+", version) is not None
    return [
        Check(f"version {version}", [] if is_release else [f"{_VERSION_FILE}: not of the form 1.2.3"]),
        Check("changelog", list(_of_changelog(root, version))),
        Check("requirements files", list(_of_pins(root))),
        Check("image label", list(_of_label(root, version))),
        Check("OpenAPI documents", list(_of_documents(root, version))),
        Check("images in deploy", list(_of_manifests(root, version))),
        Check(f"tag v{version}", list(_of_tag(root, version))),
    ]


def _of_changelog(root: Path, version: str) -> Iterator[str]:
    """Unreleased is empty, and below it is the section of this version, with a date and entries."""
    sections = _SECTION.findall((root / _CHANGELOG).read_text())
    unreleased = [text for name, _, text in sections if name == "Unreleased"]
    if [text.strip() for text in unreleased] != [""]:
        yield f"{_CHANGELOG}: needs a section Unreleased without entries"
    released = [each for each in sections if each[0] != "Unreleased"]
    if not released or released[0][0] != version:
        yield f"{_CHANGELOG}: the first section below Unreleased is not that of {version}"
        return
    _, rest, text = released[0]
    if not re.fullmatch(r" - \d{4}-\d{2}-\d{2}", rest):
        yield f"{_CHANGELOG}: the section of {version} has no date, such as [{version}] - 2026-01-02"
    if not re.search("^- ", text, re.MULTILINE):
        yield f"{_CHANGELOG}: the section of {version} has no entries"


def _of_pins(root: Path) -> Iterator[str]:
    """Each dependency in pyproject.toml is pinned at a version that it allows."""
    for file in needed(root):
        try:
            for missing in unpinned(root, file):
                yield f"{file}: no pin for {missing} (make lock)"
        except ValueError as error:
            yield str(error)


def _of_label(root: Path, version: str) -> Iterator[str]:
    labels = re.findall(r'org\.opencontainers\.image\.version="(.*?)"', (root / _DOCKERFILE).read_text())
    if labels != [version]:
        yield f"{_DOCKERFILE}: org.opencontainers.image.version is {', '.join(labels) or 'absent'}"


def _of_documents(root: Path, version: str) -> Iterator[str]:
    for path in sorted((root / "docs" / "openapi").glob("*.json")):
        stated = json.loads(path.read_text())["info"]["version"]
        if stated != version:
            yield f"docs/openapi/{path.name}: info.version is {stated}"


def _of_manifests(root: Path, version: str) -> Iterator[str]:
    """Each image of cartsvc has this version as its tag, whatever its registry."""
    for path in sorted((root / "deploy").glob("**/*.yaml")):
        for tag in _IMAGE.findall(path.read_text()):
            if tag != version:
                yield f"{path.relative_to(root)}: image cartsvc has the tag {tag or '(none)'}"


def _of_tag(root: Path, version: str) -> Iterator[str]:
    """The tag is absent, or is the checked-out commit."""
    tagged, head = (_commit(root, name) for name in (f"refs/tags/v{version}", "HEAD"))
    if not head:
        yield "there is no git repository"
    elif tagged and tagged != head:
        yield f"is another commit, {tagged[:12]}"


def _commit(root: Path, name: str) -> str:
    command = ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.strip()


def main(root: Path) -> None:
    """Print the checks of a source tree."""
    checks = check(root)
    print(*checks, sep="\n")  # noqa: T201 - the purpose of this program
    sys.exit(1 if any(each.faults for each in checks) else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else _ROOT)
