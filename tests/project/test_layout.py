"""Holds the project layout: import rules, thin views, one place for the environment, a small root."""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MAX_VIEW_LINES = 8  # of a view's body

STANDS_AT_THE_ROOT = {
    *(
        "cartsvc",
        "tests",
        "wsgi.py",
        "gunicorn.conf.py",
        "Dockerfile",
        "docker-compose.yml",
        "requirements.txt",
        "README.md",
    ),
    *("pyproject.toml", "requirements-dev.txt", "Makefile", "CHANGELOG.md", "LICENSE", "docs", "bench", ".ci"),
    *("examples", ".gitignore", ".dockerignore", "requirements-build.txt", "requirements-c-parser.txt"),
    *("requirements-otel.txt", "deploy"),
}


def _modules() -> dict[str, Path]:
    package = ROOT / "cartsvc"
    found = {"wsgi": ROOT / "wsgi.py", "gunicorn.conf": ROOT / "gunicorn.conf.py"}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


MODULES = _modules()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", MODULES)
def test_settings_alone_reads_the_environment(module: str) -> None:
    """Whatever else wants to know asks it."""
    reads = set()
    for node in ast.walk(_tree(MODULES[module])):
        names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        ours = isinstance(node, ast.Attribute) and "req" not in ast.unparse(node.value)  # a request has its own environ
        names += [node.attr] if ours else []
        reads |= {"environ", "environb", "getenv", "getenvb", "putenv", "Env"} & set(names)
    assert bool(reads) == (module == "settings")


def test_the_views_are_thin() -> None:
    """A view parses, calls the service and replies; its docstring is not counted."""
    views: dict[str, int] = {}
    for module in ("api.carts", "api.health", "api.swagger_ui"):
        for node in _tree(MODULES[module]).body:
            if isinstance(node, ast.FunctionDef) and any(_is_route(each) for each in node.decorator_list):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                views[node.name] = (body[-1].end_lineno or 0) - body[0].lineno + 1
    assert len(views) > 8
    assert {name: lines for name, lines in views.items() if lines > MAX_VIEW_LINES} == {}


def _is_route(decorator: ast.expr) -> bool:
    return (
        isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Attribute)
        and decorator.func.attr in {"route", "get", "post", "put", "patch", "delete"}
    )


def test_the_root_stays_small() -> None:
    """Nothing stands at the root that the design does not name."""
    assert _at_the_root() - STANDS_AT_THE_ROOT == set()


def _at_the_root() -> set[str]:
    if (ROOT / ".git").exists():
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        return {name.partition("/")[0] for name in listed.split("\0") if name}
    ignored = re.findall(r"(?m)^[^#\s].*?(?=/?$)", (ROOT / ".gitignore").read_text(encoding="utf-8"))
    names = {path.name for path in ROOT.iterdir()}
    return {name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)}


def test_imports_keep_the_layers() -> None:
    """The contracts are in pyproject.toml, ``[tool.importlinter]``; ``make lint`` runs them too."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
