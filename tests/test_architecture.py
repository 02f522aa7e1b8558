"""Holds the walls of the house: who may import whom, how large a view may be, what stands at the root."""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 8  # of a view's body

CORE = {"cart", "errors", "record", "strings"}
RULES = {*CORE, "terms"}  # pure: what a cart, a record and a client's terms are, and nothing else


class Room(NamedTuple):
    """What a module may import: other modules of ours, and packages of others (the standard library is free)."""

    ours: set[str]
    others: set[str]


CONCRETE_STORES = {"stores.memory", "stores.lmdb", "stores.valkey"}
# A new module is to be written down here, with what it may know, before it can be imported anywhere.
ROOMS = {
    "wsgi": Room({"__init__", "errors"}, {"click"}),
    "gunicorn.conf": Room(
        {"clients", "errors", "settings", "startup", "stores", "stores.urls"}, {"gevent", "gunicorn"}
    ),
    "__init__": Room({"app"}, set()),
    "app": Room(
        {
            "api",
            "api.rates",
            "auth",
            "cli",
            "jwks",
            "keys",
            "logged_store",
            "merge",
            "service",
            "settings",
            "stores",
            "stores.base",
        },
        {"flask", "flask_cors", "werkzeug"},
    ),
    "settings": Room({*CORE, "cores", "keys", "stores.urls"}, {"environs", "limits", "marshmallow", "msgspec"}),
    "clients": Room(set(), {"gunicorn"}),
    "workers": Room(set(), {"gevent", "gunicorn"}),
    "cores": Room(set(), set()),
    "startup": Room({"stores.urls", "version"}, set()),
    "version": Room(set(), set()),
    "errors": Room(set(), {"msgspec"}),
    "strings": Room(set(), {"msgspec"}),
    "cart": Room({"errors", "strings"}, {"msgspec"}),
    "record": Room({"cart", "errors"}, {"msgspec"}),
    "terms": Room(CORE, {"msgspec"}),
    "merge": Room({*RULES, "stores.base"}, {"msgspec"}),
    "service": Room({*RULES, "merge", "stores.base"}, {"msgspec"}),
    "cli": Room({*CORE, "backup", "stores.base"}, {"click", "msgspec"}),
    "backup": Room({*CORE, "record_check"}, {"msgspec"}),
    "record_check": Room(CORE, set()),
    "logged_store": Room({*CORE, "stores.base"}, set()),
    "auth": Room({*CORE, "keys"}, {"jwt"}),
    "jwks": Room({"errors", "keys"}, {"cryptography", "jwt"}),
    "keys": Room(set(), {"cryptography", "jwt"}),
    "stores": Room(
        {"stores.base", "stores.guard", "stores.lmdb", "stores.memory", "stores.urls", "stores.valkey"}, set()
    ),
    "stores.base": Room(CORE, set()),
    "stores.cluster": Room({"stores.connections"}, {"redis"}),
    "stores.connections": Room(set(), {"redis"}),
    "stores.guard": Room({"errors"}, set()),
    "stores.lmdb": Room({*CORE, "stores.base", "stores.guard", "stores.urls"}, {"lmdb"}),
    "stores.memory": Room({*CORE, "stores.base"}, set()),
    "stores.urls": Room(set(), {"msgspec"}),
    "stores.valkey": Room({*CORE, "stores.base", "stores.cluster", "stores.connections", "stores.urls"}, {"redis"}),
    "api": Room(
        {
            *CORE,
            "auth",
            "api.access",
            "api.carts",
            "api.health",
            "api.pages",
            "api.problems",
            "api.rates",
            "api.schemas",
        },
        {"flask", "flask_smorest", "msgspec", "werkzeug"},
    ),
    "api.access": Room({"auth", "errors", "api.headers", "api.problems"}, {"flask"}),
    "api.rates": Room({"errors", "api.access", "api.headers", "api.problems"}, {"flask", "flask_limiter", "limits"}),
    "api.answers": Room({"cart", "terms", "api.headers"}, {"flask", "msgspec"}),
    "api.blueprint": Room({"api.body", "api.problems"}, {"flask_smorest"}),
    "api.body": Room({"errors", "api.headers"}, {"flask", "marshmallow", "msgspec", "webargs", "werkzeug"}),
    "api.carts": Room(
        {"cart", "service", "strings", "api.access", "api.answers", "api.blueprint", "api.headers", "api.schemas"},
        {"flask"},
    ),
    "api.headers": Room({"record", "terms"}, {"flask", "msgspec", "werkzeug"}),
    "api.health": Room({"service", "api.blueprint", "api.schemas"}, {"flask"}),
    "api.pages": Room(set(), {"flask", "werkzeug"}),
    "api.problems": Room({"errors", "api.answers", "api.schemas"}, {"apispec", "flask", "msgspec", "werkzeug"}),
    "api.schemas": Room({"cart", "strings"}, {"marshmallow", "msgspec"}),
}
# What a module may import for types only (in an ``if TYPE_CHECKING``), although the other module imports it.
FOR_TYPES = {"errors": {"cart"}}
# In the core even the standard library has rooms that are closed: no I/O, no clock, no randomness.
CLOSED_TO_CORE = {
    "asyncio",
    "datetime",
    "io",
    "logging",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "threading",
    "time",
    "uuid",
}

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
    *(".gitignore", ".dockerignore"),
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


def _imported(tree: ast.Module) -> set[str]:
    """The full names of all modules imported, wherever in the file the import stands, also for types only."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            for alias in node.names:
                both = f"{node.module}.{alias.name}"
                found.add(both if both.removeprefix("cartsvc.") in MODULES else node.module)
    return found


def _at_run_time(tree: ast.Module) -> ast.Module:
    """Return the module without its ``if TYPE_CHECKING`` blocks."""
    kept = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    return ast.Module(kept, [])


def _rooms(module: str) -> Room:
    """Return what the module imports; what FOR_TYPES allows does not count, unless it is imported at run time too."""
    tree = _tree(MODULES[module])
    ours, others = _split(_imported(tree))
    for_types = FOR_TYPES.get(module, set()) - _split(_imported(_at_run_time(tree))).ours
    return Room(ours - for_types, others)


def _split(imported: set[str]) -> Room:
    ours = {name.removeprefix("cartsvc.") for name in imported if name.startswith("cartsvc.")}
    ours |= {"__init__"} if "cartsvc" in imported else set()
    packages = {name.partition(".")[0] for name in imported}
    return Room(ours, packages - {"cartsvc"} - sys.stdlib_module_names)


def test_every_module_has_its_place() -> None:
    """The table has each module, and no other."""
    assert set(ROOMS) == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_it_may(module: str) -> None:
    """Nothing that its place in the house forbids."""
    actual = _rooms(module)
    allowed = ROOMS[module]
    assert actual.ours - allowed.ours == set()
    assert actual.others - allowed.others == set()


def test_the_table_keeps_the_walls() -> None:
    """What the design says of whole groups of modules holds in the table, whoever edits it."""
    for module, room in ROOMS.items():
        stores = {each for each in room.ours if each.startswith("stores.")}
        if module in CORE:
            assert room.others <= {"msgspec"}
            assert room.ours <= CORE
        if module == "terms":
            assert (room.others, room.ours) == ({"msgspec"}, CORE)
        if module.partition(".")[0] in {"stores", "service", "merge"}:
            assert not {each for each in room.others if each.startswith("flask") or each == "werkzeug"}
            assert not {each for each in room.ours if each.partition(".")[0] in {"api", "app", "settings"}}
        if module != "stores":
            assert not stores & CONCRETE_STORES, "stores/__init__.py alone names a concrete store"
        if module.partition(".")[0] == "api":
            assert not {each for each in room.ours if each.partition(".")[0] in {"app", "settings", "stores"}}
        if module not in {"app", "gunicorn.conf"}:
            assert "settings" not in room.ours
        assert "app" not in room.ours or module == "__init__"
        assert "__init__" not in room.ours or module == "wsgi"


def test_imports_point_one_way() -> None:
    """No module leads back to itself."""
    done: set[str] = set()

    def follow(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path, module))}"
        if module not in done:
            for each in _rooms(module).ours & set(MODULES):
                follow(each, (*path, module))
            done.add(module)

    for module in MODULES:
        follow(module, ())


@pytest.mark.parametrize("module", sorted(RULES | {"merge", "service", "stores.base"}))
def test_the_core_has_no_clock_no_chance_and_no_io(module: str) -> None:
    """Times and tags are handed in."""
    assert {name.partition(".")[0] for name in _imported(_tree(MODULES[module]))} & CLOSED_TO_CORE == set()
    calls = {
        node.func.id
        for node in ast.walk(_tree(MODULES[module]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert calls & {"open", "print", "input", "exec", "eval", "__import__"} == set()


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
    for module in ("api.carts", "api.health", "api.pages"):
        for node in _tree(MODULES[module]).body:
            if isinstance(node, ast.FunctionDef) and any(_is_route(each) for each in node.decorator_list):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                views[node.name] = (body[-1].end_lineno or 0) - body[0].lineno + 1
    assert len(views) > 8
    assert {name: lines for name, lines in views.items() if lines > MOST_LINES} == {}


def _is_route(decorator: ast.expr) -> bool:
    return (
        isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Attribute)
        and decorator.func.attr in {"route", "get", "post", "put", "patch", "delete"}
    )


def test_the_carts_module_has_no_helper_that_hides_a_view() -> None:
    """Beside its views it has what finds the service and what checks the user_id."""
    functions = [node for node in _tree(MODULES["api.carts"]).body if isinstance(node, ast.FunctionDef)]
    others = {node.name for node in functions if not any(_is_route(each) for each in node.decorator_list)}
    assert others == {"_service", "_check_user_id"}


@pytest.mark.parametrize("module", [each for each in MODULES if each not in {"__init__", "wsgi"}])
def test_a_module_opens_as_all_do(module: str) -> None:
    """With what it owns, and then the one import that makes annotations cheap."""
    tree = _tree(MODULES[module])
    assert ast.get_docstring(tree)
    first = tree.body[1]
    assert isinstance(first, ast.ImportFrom)
    assert (first.module, [alias.name for alias in first.names]) == ("__future__", ["annotations"])


def test_the_package_exports_create_app_and_nothing_else() -> None:
    """Everything else is the house's own business."""
    tree = _tree(MODULES["__init__"])
    names = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert names == ["create_app"]


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
