"""Compare README.md and docs/ with the code: tables, commands, links, and the responses in the tour."""

from __future__ import annotations

import os
import re
import subprocess
import time
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click
import pytest

from cartsvc import create_app
from cartsvc.api.problems import PROBLEM_BY_ERROR, PROBLEM_BY_STATUS
from cartsvc.api.schemas import CART_SCHEMA, ITEM_SCHEMA, FaultSchema
from cartsvc.carts.combine import STRATEGIES
from cartsvc.errors import FAULT_CODES, SettingsError
from cartsvc.settings import Settings
from cartsvc.stores import open_store, urls
from tests.support.clock import real_now
from tests.support.records import a_record, put
from tests.support.servers import serve
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cartsvc.stores.urls import StoreConfig

pytestmark = pytest.mark.usefixtures("nothing_set")

_ROOT = Path(__file__).parents[2]
_README, _API, _CONCEPTS, _CONFIGURATION, _OPERATIONS, _STORES, _TUTORIAL = (
    (_ROOT / name).read_text()
    for name in (
        "README.md",
        "docs/api.md",
        "docs/concepts.md",
        "docs/configuration.md",
        "docs/operations.md",
        "docs/stores.md",
        "docs/tutorial.md",
    )
)
_ACL = [command.replace("\\|", "|") for command in re.findall(r"`(ACL SETUSER .+?)`", _STORES)]
_COMPOSE = (_ROOT / "docker-compose.yml").read_text()
_PAGES = sorted([*_ROOT.glob("*.md"), *_ROOT.glob("docs/**/*.md")])

_CODE = re.compile(r"`([^`]+)`")
_FRACTIONS = ", fractions too"
_UNITS = {
    "": 1,
    "second": 1,
    "day": 86_400,
    "days": 86_400,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "PiB": 2**50,
}


def _tables(page: str, heading: str | None = None) -> list[list[list[str]]]:
    """Return the tables of a page, or of the section with this heading: their rows of cells, without the head rows."""
    if heading is not None:
        page = re.split(r"^## ", page.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]
    tables = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    return [[_cells(row) for row in table.splitlines()[2:]] for table in tables]


def _cells(row: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


# ---- calls and carts ----


def test_the_table_of_calls_is_what_the_app_routes() -> None:
    """docs/api.md lists every route with its method, and no other."""
    table, _ = _tables(_API, "Calls")
    told = [call for row in table for call in _CODE.findall(row[0])]
    routed = [
        f"{method} {_path(rule.rule)}"
        for rule in create_app().url_map.iter_rules()
        for method in rule.methods or ()
        if method not in {"HEAD", "OPTIONS"}
    ]
    assert sorted(told) == sorted(routed)


def test_the_readme_lists_the_documented_calls() -> None:
    """The README lists the operations of /openapi.json, and no other."""
    (table,) = _tables(_README, "API")
    listed = [(*_CODE.findall(method), *_CODE.findall(path)) for method, path, _ in table]
    document = create_app().test_client().get("/openapi.json").get_json()
    documented = [
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
        if method in {"get", "post", "put", "patch", "delete"}
    ]
    assert sorted(listed) == sorted(documented)


def _path(rule: str) -> str:
    """Return a route as OpenAPI writes it: "/cart/{user_id}"."""
    return re.sub(r"<(?:[^<>]*:)?(\w+)>", r"{\1}", rule)


def test_the_table_of_headers_is_what_every_write_takes() -> None:
    """/openapi.json lists each of them, and no other, for every write to a cart."""
    _, table = _tables(_API, "Calls")
    told = [_CODE.findall(header)[0] for header, _ in table]
    document = create_app().test_client().get("/openapi.json").get_json()
    for path, operations in document["paths"].items():
        if path.startswith("/cart/"):
            for method, operation in operations.items():
                if method in {"post", "put", "patch", "delete"}:
                    names = [each["$ref"].rpartition("/")[2] for each in operation["parameters"]]
                    parameters = [document["components"]["parameters"][name] for name in names]
                    headers = [parameter["name"] for parameter in parameters if parameter["in"] == "header"]
                    assert headers == told, (method, path)


def test_the_table_of_strategies_is_the_codes() -> None:
    """docs/concepts.md explains every strategy of a merge, the default first."""
    _, table = _tables(_CONCEPTS)
    assert [_CODE.findall(row[0]) for row in table] == [[strategy] for strategy in STRATEGIES]


@pytest.mark.parametrize(
    ("name", "minimum"), [("concepts.md", 2), ("guarantees.md", 1), ("storefront.md", 6), ("stores.md", 4)]
)
def test_the_slugs_of_the_other_pages_are_there(name: str, minimum: int) -> None:
    """Each problem that a page mentions exists, with that status."""
    page = (_ROOT / "docs" / name).read_text()
    told = set(re.findall(r"\b([45]\d\d)\s`([a-z-]+)`", page))
    kinds = {(str(kind.status), kind.slug) for kind in (*PROBLEM_BY_ERROR.values(), *PROBLEM_BY_STATUS.values())}
    assert len(told) >= minimum
    assert told - kinds == set()
    assert set(re.findall(r'problem === "([a-z-]+)"', page)) - {slug for _, slug in kinds} == set()


def test_the_tables_of_members_are_what_answers_hold() -> None:
    """docs/api.md explains every member of a cart and of an item, in the order of responses."""
    told = [[name for row in table for name in _CODE.findall(row[0])] for table in _tables(_API, "The cart")]
    assert told == [list(CART_SCHEMA.fields), list(ITEM_SCHEMA.fields)]


def test_the_table_of_errors_is_the_one_of_problems() -> None:
    """docs/api.md lists every kind of problem with its status, and no other."""
    table, *_ = _tables(_API, "Errors")
    told = [(int(status), slug) for status, slug, _ in table]
    kinds = [(kind.status, f"`{kind.slug}`") for kind in (*PROBLEM_BY_ERROR.values(), *PROBLEM_BY_STATUS.values())]
    assert sorted(told) == sorted(kinds)


def test_the_tables_of_faults_are_what_problems_hold() -> None:
    """docs/api.md explains every member of a fault and every code, and no other."""
    _, members, codes = _tables(_API, "Errors")
    told = [name for row in members for name in _CODE.findall(row[0])]
    assert sorted(told) == sorted(field.data_key or name for name, field in FaultSchema().fields.items())
    assert sorted(name for row in codes for name in _CODE.findall(row[0])) == sorted(FAULT_CODES)


# ---- stores ----


def _urls() -> list[tuple[list[str], list[str]]]:
    """Return the URLs and the options of each row of the table of store URLs."""
    (table,) = _tables(_STORES, "Store URLs")
    return [(_CODE.findall(found), _CODE.findall(options)) for found, options, _ in table]


def test_the_schemes_are_those_that_are_taken() -> None:
    """docs/stores.md lists every scheme of a store URL, and no other."""
    told = [url.partition(":")[0] for found, _ in _urls() for url in found]
    names = (
        "memory",
        "lmdb",
        "valkey",
        "redis",
        "keydb",
        "postgresql",
        "postgres",
        "mysql",
        "file",
        "http",
        "unix",
        "dynamodb",
        "sqlite",
    )
    spelt = {"".join(parts) for parts in product(names, ("", "s", "ss"), ("", "+cluster", "+sentinel", "+tls"))}
    assert sorted(told) == sorted(scheme for scheme in spelt if _is_taken(scheme))


def test_the_stores_of_the_readme_are_stores() -> None:
    """Each URL in the README's table is valid, and each kind of store has a row."""
    (table,) = _tables(_README, "Stores")
    places = [_place(url) for row in table for url in _CODE.findall(row[3])]
    assert {type(config) for config in places} == set(get_args(urls.StoreConfig))
    assert len(places) == len(table)


def _is_taken(scheme: str) -> bool:
    return any(
        _place(f"{scheme}:{rest}") is not None for rest in ("//", "///path", "//host", "//host/db", "//host/service")
    )


def _place(url: str) -> StoreConfig | None:
    try:
        return urls.parse_store_url(url)
    except ValueError:
        return None


@pytest.mark.parametrize(("found", "options"), _urls(), ids=lambda cell: cell[0] if cell else "")
def test_the_options_are_those_that_are_taken(
    found: list[str], options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each URL is valid with each of its options, and has no other; those of lmdb show its defaults."""
    known: list[set[str]] = []
    real = urls._options  # noqa: SLF001 - which ones a scheme takes stands nowhere else

    def asked(parts: object, names: set[str]) -> dict[str, str]:
        known.append(names)
        return real(parts, names)  # type: ignore[arg-type] - what it was given

    monkeypatch.setattr(urls, "_options", asked)
    for url in found:
        plain, full = (
            urls.parse_store_url(url),
            urls.parse_store_url("?".join([url, "&".join(options)]) if options else url),
        )
        assert (full == plain) is not url.startswith(("valkeys", "rediss", "postgres"))
    assert all(names == {option.partition("=")[0] for option in options} for names in known)
    assert len(known) == (0 if found == ["memory://"] else 2 * len(found))


def test_what_a_commit_waits_for_is_explained() -> None:
    """Each value of sync has its row, the default first; the table of URLs lists them too."""
    table = next(table for table in _tables(_STORES, "LMDB") if "sync" in table[0][0])
    assert [_CODE.findall(row[0]) for row in table] == [[f"sync={sync}"] for sync in get_args(urls.Sync)]
    assert urls.LmdbConfig("/x").sync == get_args(urls.Sync)[0]
    assert "`sync` is `on`, `lazy` or `off`" in _STORES


def test_the_servers_settings_are_those_of_the_compose_file() -> None:
    """docs/stores.md lists four settings of the compose file's server, and the file has them."""
    table = next(table for table in _tables(_STORES, "Valkey") if "maxmemory" in table[0][0])
    settings = [_CODE.findall(row[0])[0] for row in table if row[0].startswith("`")]
    assert len(settings) == 4
    assert [setting for setting in settings if f"- --{setting}" not in _COMPOSE] == []


def test_a_user_of_valkeys_may_do_what_the_store_does() -> None:
    """The user in docs/stores.md has the permissions to read, write, delete, count and read the configuration."""
    of_carts, _ = _ACL
    with valkey("--appendonly", "yes") as server, server.client() as admin:
        admin.execute_command(*of_carts.split(" "))
        config = urls.parse_store_url(server.url.replace("://", "://carts:password@"))
        store = open_store(config, clock=real_now, memory_limit=0, max_readers=0, timeout=10)
        store.ping()
        put(store, "alice", a_record(real_now))
        assert [user_id for user_id, _ in store.scan()] == ["alice"]
        store.delete("alice")
        assert store.get("alice") is None
        assert store.startup_warnings() == []
        assert admin.acl_log() == []
        store.close()


def test_a_user_of_valkeys_may_do_what_rates_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The additional permissions in docs/stores.md suffice for rates, also when a window becomes the previous one."""
    with valkey() as server, server.client() as admin:
        for command in _ACL:
            admin.execute_command(*command.split(" "))
        monkeypatch.setenv("CARTSVC_STORE_URL", server.url.replace("://", "://carts:password@"))
        monkeypatch.setenv("CARTSVC_RATE_LIMIT", "2/second")
        client = create_app().test_client()
        told: list[int] = []
        until = time.monotonic() + 30
        while {200, 429} != set(told) or told[-1] == 429:
            assert time.monotonic() < until, told
            told.append(client.get("/cart/alice").status_code)
        assert admin.acl_log() == []


def test_the_commands_of_carts_are_those_there_are() -> None:
    """docs/operations.md lists each command with its argument and its options, and no other."""
    (table,) = _tables(_OPERATIONS, "Backup and migration")
    group = create_app().cli.commands["carts"]
    assert isinstance(group, click.Group)
    told = {}
    for row in table:
        _, name, *argument = _CODE.findall(row[0])[0].split()
        told[name] = {each.lower() for each in argument} | set(re.findall(r"`(--[a-z-]+)", row[1]))
    actual = {
        name: {option for each in command.params for option in each.opts} - {"--yes"}
        for name, command in group.commands.items()
    }
    assert told == actual


# ---- settings ----


def test_the_table_of_settings_has_every_setting(known_settings: list[str]) -> None:
    """docs/configuration.md lists what from_env() reads from the environment, once each."""
    assert sorted(name for name, *_ in _settings()) == known_settings


def test_the_settings_of_the_readme_are_those_of_the_reference() -> None:
    """The README's table repeats rows of docs/configuration.md, word for word, but for the folder in links."""
    (table,) = _tables(_README.replace("](docs/", "]("), "Configuration")
    (reference,) = _tables(_CONFIGURATION)
    assert len(table) >= 5
    assert [row for row in table if row not in reference] == []


def _settings() -> list[tuple[str, str, str]]:
    """Return name, default and bounds of each setting, as docs/configuration.md has them."""
    (table,) = _tables(_CONFIGURATION)
    return [(name.strip("`"), default, bounds) for name, default, _, bounds in table]


def test_compose_passes_on_every_setting_but_where_to_listen() -> None:
    """As docs/operations.md states, a setting in the environment of `docker compose up` reaches the service."""
    section = _COMPOSE.split("    environment:\n")[1].split("\n\n")[0]
    passed = re.findall(r"^ +- ([A-Z_]+)(?:=\$\{\1:-.*)?$", section, re.MULTILINE)
    settings = {name for name, *_ in _settings()}
    assert settings - set(passed) == {"HOST", "PORT"}


# Those of authentication belong together: tests/docs/test_authentication.py has them.
_OF_AUTH = re.compile(r"CARTSVC_(AUTH|JWT_\w+|GUEST_KEY)")
_each_setting = pytest.mark.parametrize(
    ("name", "default", "bounds"),
    [row for row in _settings() if not _OF_AUTH.fullmatch(row[0]) and row[0] != "CARTSVC_KEY_PREFIX"],
    ids=lambda cell: cell.split()[0],
)


@_each_setting
def test_a_default_is_the_one_told(name: str, default: str, bounds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting a setting to its documented default changes nothing; another value does."""
    unset = Settings.from_env()
    allowed = _allowed(bounds)
    if default == "unset":
        changed = _changed(unset, _with(monkeypatch, name, allowed[0]))
        assert [bool(value) for value in changed] == [False]
    else:
        value, *others = _CODE.findall(default)
        assert others == []
        for size in re.findall(r"\((.+)\)", default):
            assert _number(size) == int(value)
        assert _with(monkeypatch, name, value) == unset
        for other in set(allowed) - {value}:
            assert _with(monkeypatch, name, other) != unset


@_each_setting
def test_bounds_are_those_told(name: str, default: str, bounds: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - a row is a row
    """Values within the documented bounds are accepted; values just outside are rejected, in the same words."""
    for value in _allowed(bounds):
        _with(monkeypatch, name, value)
    outside: list[str]
    if span := _span(bounds):
        least, most = span
        step, kind = (0.01, "number") if _FRACTIONS in bounds else (1, "whole number")
        outside, told = [f"{least - step:g}", f"{most + step}"], f"a {kind} from {least} to {most}"
    else:
        outside, told = ["wr ong"], bounds.replace("`", "")
    for value in outside:
        with pytest.raises(SettingsError) as refused:
            _with(monkeypatch, name, value)
        shown = "..." if name == "CARTSVC_STORE_URL" else repr(value)  # it may hold a password
        assert refused.value.faults == (f"{name}={shown}: must be {told}",)


def test_the_key_prefix_is_the_one_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default and the bounds in docs/configuration.md are those of the setting and of its message."""
    (default, bounds) = next(row[1:] for row in _settings() if row[0] == "CARTSVC_KEY_PREFIX")
    assert Settings.from_env().key_prefix == default.strip("`")
    with pytest.raises(SettingsError) as refused:
        _with(monkeypatch, "CARTSVC_KEY_PREFIX", "*")
    assert refused.value.faults == (f"CARTSVC_KEY_PREFIX='*': must be {bounds.replace('`', '')}",)


def _with(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> Settings:
    monkeypatch.setenv(name, value)
    return Settings.from_env()


def _changed(before: Settings, after: Settings) -> Iterator[object]:
    """Yield the earlier values of the settings that have changed."""
    for field in Settings.__struct_fields__:
        if getattr(before, field) != getattr(after, field):
            yield getattr(before, field)


def _allowed(bounds: str) -> list[str]:
    return [str(bound) for bound in _span(bounds)] or _CODE.findall(bounds)


def _span(bounds: str) -> list[float]:
    """Return both ends of "1 KiB to 16 MiB", and nothing for any other cell."""
    ends = re.fullmatch(r"([\d,.]+ ?\w*) to ([\d,.]+ ?\w*)", bounds.removesuffix(_FRACTIONS))
    return [_number(end) for end in ends.groups()] if ends else []


def _number(text: str) -> float:
    digits, _, unit = text.replace(",", "").partition(" ")
    return float(digits) if "." in digits else int(digits) * _UNITS[unit]


# ---- the tour ----

_MASKS = (
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"), "(time)"),
    (re.compile(r'^ETag: "[\w-]{16}"$', re.MULTILINE), "ETag: (tag)"),
    (re.compile(r"^Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$", re.MULTILINE), "Date: (date)"),
    (re.compile(r"^Server: .+$", re.MULTILINE), "Server: (server)"),
    (re.compile(r"((?:^X-Request-ID: |urn:cartsvc:request:))[0-9a-f]{16}\b", re.MULTILINE), r"\1(id)"),
)
_GUEST = re.compile(r"guest-[\w-]{22}")


def _steps(page: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a page's console blocks, and the output shown below it."""
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        start, *steps = re.split(r"^\$ ", block, flags=re.MULTILINE)
        assert start == ""
        for step in steps:
            command = re.match(r"(?:.*\\\n)*.*\n", step)
            assert command is not None
            yield command[0].rstrip("\n"), step[command.end() :]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Run a command of a page against a fresh server, in an empty home directory."""
    # Without the developer's .curlrc and proxy, so that only the page decides.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NO_PROXY": "*"}
    with serve(WEB_CONCURRENCY="1") as server:
        here = server.url.removeprefix("http://")

        def output(command: str) -> str:
            assert command.startswith("curl ")
            return subprocess.run(
                ["bash", "-c", command.replace("localhost:8080", here)],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=30,
                check=True,
            ).stdout

        yield output


@pytest.mark.server
def test_the_tour_shows_what_happens(run: Callable[[str], str]) -> None:
    """Each command of the tutorial returns what the page shows, except for times, tags and server."""
    guests: dict[str, str] = {}  # the id that the page shows, and the id that was created now
    for command, shown in _steps(_TUTORIAL):
        output = run(_renamed(command, guests))
        for id_shown, id_made in zip(_GUEST.findall(shown), _GUEST.findall(output), strict=False):
            guests.setdefault(id_shown, id_made)
        assert _masked(output) == _masked(_renamed(shown, guests)), command
    assert len(guests) == 1


@pytest.mark.server
def test_the_quick_start_shows_what_happens(run: Callable[[str], str]) -> None:
    """Each command of the README returns what the page shows, where `...` stands for omitted members."""
    steps = list(_steps(_README))
    assert len(steps) >= 3
    for command, shown in steps:
        pattern = ".+".join(re.escape(part) for part in shown.rstrip("\n").split("..."))
        assert re.fullmatch(pattern, run(command)), command


def _renamed(text: str, guests: dict[str, str]) -> str:
    return _GUEST.sub(lambda found: guests.get(found[0], found[0]), text)


def _masked(output: str) -> str:
    for pattern, mask in _MASKS:
        output = pattern.sub(mask, output)
    if output.startswith("HTTP/"):
        head, _, body = output.partition("\n\n")
        output = "\n".join(sorted(head.splitlines())) + "\n\n" + body  # the order of headers means nothing
    return output.rstrip("\n")  # JSON answers end without one, answers without a body with an empty line


def test_the_readme_is_short() -> None:
    """A reader sees what the service is, and how to start it, on a few screens."""
    assert len(_README.splitlines()) <= 140


def test_the_index_lists_every_page() -> None:
    """docs/README.md links to every page in its folder once, and the README to those too."""
    folder = _ROOT / "docs"
    pages = {page.name for page in folder.glob("*.md")} - {"README.md"}
    listed = re.findall(r"\]\(([a-z-]+\.md)\)", (folder / "README.md").read_text())
    assert sorted(listed) == sorted(pages)
    assert pages - set(re.findall(r"\]\(docs/([a-z-]+\.md)", _README)) == set()


def test_the_tour_goes_everywhere() -> None:
    """The tour uses every method, an idempotency key and a precondition, creates a guest and merges it."""
    commands = [command for command, _ in _steps(_TUTORIAL)]
    stated = {method for command in commands for method in re.findall(r"-X (\w+)", command)}
    assert stated == {"POST", "PUT", "PATCH", "DELETE"}
    shown = "".join(shown for _, shown in _steps(_TUTORIAL))
    met = set(re.findall(r"urn:cartsvc:problem:([a-z-]+)", shown))
    assert met == {"precondition-failed", "invalid-request"}
    assert "Idempotency-Replayed: true" in shown
    assert any("/merge " in command for command in commands)


# ---- commands and links ----


def test_the_commands_are_those_of_the_makefile() -> None:
    """Every `make` command in a page exists, and docs/contributing.md lists them all."""
    targets = re.findall(r"^([a-z-]+):.*## ", (_ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {
        page.relative_to(_ROOT).as_posix(): set(
            re.findall(r"(?:^|`)(?:PORT=\d+ )?make ([a-z-]+)", page.read_text(), re.MULTILINE)
        )
        for page in _PAGES
    }
    assert {name for names in named.values() for name in names} - set(targets) == set()
    assert named["docs/contributing.md"] == set(targets)
    assert named["README.md"] >= {"run", "help"}


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to an existing file, and to a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            assert not anchor or anchor in _anchors(file), target


def test_every_decision_is_in_the_index() -> None:
    """docs/decisions/README.md links to every page in its folder, by its title."""
    folder = _ROOT / "docs" / "decisions"
    titles = {file.name: file.read_text().splitlines()[0].removeprefix("# ") for file in folder.glob("0*.md")}
    listed = re.findall(r"\[(.+?)\]\((0.+?\.md)\)", (folder / "README.md").read_text())
    assert sorted(listed) == sorted((title, name) for name, title in titles.items())


@pytest.mark.parametrize("page", sorted(_ROOT.glob("docs/decisions/0*.md")), ids=lambda page: page.stem)
def test_a_decision_has_its_four_parts(page: Path) -> None:
    """Each page has the standard sections of a decision record, in their order."""
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert headings == ["Context", "Decision", "Alternatives", "Consequences"]


@cache
def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings: lower case, hyphens for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
