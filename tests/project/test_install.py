"""Test what `make` does where a part cannot be installed: the C parser without a compiler, npm's packages without npm.

pip, npm and gunicorn are fakes.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_FILES = ("Makefile", *(path.name for path in _ROOT.glob("requirements*.txt")))
_LOCK = "tests/clients/package-lock.json"
# Called as `python -m venv .venv`. Its pip and its npm write down what they are called with, and succeed if they may.
_PYTHON = """#!/bin/sh
mkdir -p .venv/bin
cat >.venv/bin/pip <<'end'
#!/bin/sh
echo "$@" >>pip.log
case "$*" in *--no-build-isolation*) echo "no gcc"; echo "no gcc" >&2; exit $CANNOT_COMPILE;; esac
end
cat >.venv/bin/python <<'end'
#!/bin/sh
echo "$@" >>../../npm.log
mkdir -p node_modules
echo "no network"; exit $CANNOT_DOWNLOAD
end
printf '#!/bin/sh\\necho serves\\n' >.venv/bin/gunicorn
chmod +x .venv/bin/*
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a directory with the Makefile, the requirements files and a fake Python."""
    for name in _FILES:
        shutil.copy(_ROOT / name, tmp_path)
    (tmp_path / _LOCK).parent.mkdir(parents=True)
    shutil.copy(_ROOT / _LOCK, tmp_path / _LOCK)
    (tmp_path / "python").write_text(_PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def _make(clone: Path, target: str, *, cannot_compile: bool = False, cannot_download: bool = False) -> list[str]:
    """Run a target; return the lines of its output, without the commands that make shows."""
    ended = subprocess.run(
        ["make", target, "PYTHON=./python"],
        cwd=clone,
        env={
            "PATH": "/usr/bin:/bin",
            "CANNOT_COMPILE": str(int(cannot_compile)),
            "CANNOT_DOWNLOAD": str(int(cannot_download)),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return [line for line in ended.stdout.splitlines() if not line.startswith(("./python ", ".venv/bin/", "make:"))]


def _attempts(clone: Path) -> int:
    return (clone / "pip.log").read_text().count("requirements-c-parser.txt")


@pytest.mark.parametrize("target", ["run", "install"])
def test_without_a_compiler(clone: Path, target: str) -> None:
    """One line, and everything else is installed; the next command neither tries again nor repeats the line."""
    served = ["serves"] if target == "run" else []
    first = _make(clone, target, cannot_compile=True)
    assert len(first) == 1 + len(served)
    assert first[0].startswith("Without gunicorn's C parser")
    assert (clone / ".venv/c-parser.log").read_text().splitlines() == ["no gcc"] * 2
    assert _make(clone, target, cannot_compile=True) == served
    assert _attempts(clone) == 1


@pytest.mark.parametrize("target", ["run", "install"])
def test_with_a_compiler(clone: Path, target: str) -> None:
    """The C parser is installed without a word, once."""
    served = ["serves"] if target == "run" else []
    assert [_make(clone, target, cannot_compile=False) for _ in range(2)] == [served] * 2
    assert _attempts(clone) == 1


def test_without_npm(clone: Path) -> None:
    """One line, and everything else is installed; the next command tries again."""
    for _ in range(2):
        (line,) = _make(clone, "install", cannot_download=True)
        assert line.startswith("Without the npm packages of tests/clients")
    assert (clone / "tests/clients/npm.log").read_text() == "no network\n"
    assert len((clone / "npm.log").read_text().splitlines()) == 2


def test_with_npm(clone: Path) -> None:
    """The packages are installed without a word and without their scripts, once; a service needs none of them."""
    assert _make(clone, "run") == ["serves"]
    assert not (clone / "npm.log").exists()
    assert [_make(clone, "install") for _ in range(2)] == [[], []]
    (call,) = (clone / "npm.log").read_text().splitlines()
    assert {"ci", "--ignore-scripts"} <= set(call.split())
