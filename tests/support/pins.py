"""Reads the requirements files: what pyproject.toml needs, and what is pinned."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from pathlib import Path


class Pin(NamedTuple):
    """One line of a requirements file, with what follows it."""

    name: str
    version: str
    marker: str | None
    hashes: list[str]


def project(root: Path) -> dict[str, Any]:
    """Return the contents of pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text())


def needed(root: Path) -> dict[str, list[str]]:
    """Return the direct dependencies of each requirements file."""
    stated = project(root)
    run, groups = stated["project"]["dependencies"], stated["dependency-groups"]
    return {
        "requirements.txt": run,
        "requirements-dev.txt": [*run, *groups["dev"]],
        "requirements-otel.txt": [*run, *stated["project"]["optional-dependencies"]["otel"]],
        "requirements-build.txt": groups["build"],
        "requirements-c-parser.txt": groups["c-parser"],
    }


def pins(path: Path) -> list[Pin]:
    """Return the pins of a requirements file. Raises ValueError for a line that is not an exact pin with hashes."""
    text = path.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    form = re.compile(r"([a-z0-9.-]+)==(\S+)(?: ; (.*?))?((?: +--hash=sha256:[0-9a-f]{64})+) *")
    found = [form.fullmatch(line) for line in lines]
    wrong = [line[:80] for line, match in zip(lines, found, strict=True) if match is None]
    if wrong:
        raise ValueError(f"{path.name}: no exact pin with hashes: {wrong}")
    return [Pin(each[1], each[2], each[3], each[4].split()) for each in found if each]


def unpinned(root: Path, file: str) -> list[str]:
    """Return the direct dependencies of a requirements file that it does not pin at a version that they allow."""
    pinned = {pin.name: pin.version for pin in pins(root / file)}
    return [
        asked
        for asked, requirement in ((each, Requirement(each)) for each in needed(root)[file])
        if pinned.get(canonicalize_name(requirement.name), "") not in requirement.specifier
    ]
