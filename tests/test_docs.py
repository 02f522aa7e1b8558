"""Holds README.md and docs/ to the code: a route, a setting, an error or an answer that is not so fails here."""

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
from servers import serve
from store_contract import a_record, put
from valkeys import valkey

from cartsvc import create_app
from cartsvc.api.problems import OF_ERROR, OF_STATUS
from cartsvc.api.schemas import CART, ITEM
from cartsvc.cart import STRATEGIES
from cartsvc.errors import SettingsError
from cartsvc.settings import Settings
from cartsvc.stores import open_store, urls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cartsvc.stores.urls import Place

pytestmark = pytest.mark.usefixtures("nothing_set")

_ROOT = Path(__file__).parent.parent
_README = (_ROOT / "README.md").read_text()
_STORES = (_ROOT / "docs" / "stores.md").read_text()
_ACL = re.findall(r"`(ACL SETUSER .+?)`", _STORES)
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


def _tables(heading: str, page: str = _README) -> list[list[list[str]]]:
    """The tables below this heading of a page: their rows of cells, without the two lines that head each."""
    section = re.split(r"^## ", page.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]
    tables = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    return [[_cells(row) for row in table.splitlines()[2:]] for table in tables]


def _cells(row: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


# ---- calls and carts ----


def test_the_table_of_calls_is_what_the_app_routes() -> None:
    """Every route stands in the README with its method, and the README names no other."""
    table, _ = _tables("The calls")
    told = [call for row in table for call in _CODE.findall(row[0])]
    routed = [
        f"{method} {_path(rule.rule)}"
        for rule in create_app().url_map.iter_rules()
        for method in rule.methods or ()
        if method not in {"HEAD", "OPTIONS"}
    ]
    assert sorted(told) == sorted(routed)


def _path(rule: str) -> str:
    """A route as OpenAPI writes it: "/cart/{user_id}"."""
    return re.sub(r"<(?:[^<>]*:)?(\w+)>", r"{\1}", rule)


def test_the_table_of_headers_is_what_every_write_takes() -> None:
    """Each of them, and no other, stands in /openapi.json at every write of a cart."""
    _, table = _tables("The calls")
    told = [_CODE.findall(header)[0] for header, _ in table]
    document = create_app().test_client().get("/openapi.json").get_json()
    for path, operations in document["paths"].items():
        if path.startswith("/cart/"):
            for method, operation in operations.items():
                if method in {"post", "put", "patch", "delete"}:
                    headers = [each["name"] for each in operation["parameters"] if each["in"] == "header"]
                    assert headers == told, (method, path)


def test_the_table_of_strategies_is_the_codes() -> None:
    """Every strategy of a merge is explained, the default first."""
    _, table = _tables("How carts behave")
    assert [_CODE.findall(row[0]) for row in table] == [[strategy] for strategy in STRATEGIES]


@pytest.mark.parametrize(("name", "least"), [("storefront.md", 6), ("stores.md", 4)])
def test_the_slugs_of_the_other_pages_are_there(name: str, least: int) -> None:
    """No page speaks of a kind of problem that there is not, or under another status."""
    page = (_ROOT / "docs" / name).read_text()
    told = set(re.findall(r"\b([45]\d\d)\s`([a-z-]+)`", page))
    kinds = {(str(kind.status), kind.slug) for kind in OF_ERROR.values()}
    assert len(told) >= least
    assert told - kinds == set()
    assert set(re.findall(r'problem === "([a-z-]+)"', page)) - {slug for _, slug in kinds} == set()


def test_the_tables_of_members_are_what_answers_hold() -> None:
    """Every member of a cart and of an item is explained, in the order in which answers have them."""
    told = [[name for row in table for name in _CODE.findall(row[0])] for table in _tables("The cart")]
    assert told == [list(CART.fields), list(ITEM.fields)]


def test_the_table_of_errors_is_the_one_of_problems() -> None:
    """Every kind of problem stands in the README with its status, and the README names no other."""
    (table,) = _tables("Errors")
    told = [(int(status), slug) for status, slug, _ in table]
    kinds = [(kind.status, f"`{kind.slug}`") for kind in (*OF_ERROR.values(), *OF_STATUS.values())]
    assert sorted(told) == sorted(kinds)


# ---- stores ----


def _urls() -> list[tuple[list[str], list[str]]]:
    """Of each row of the table of store URLs: its URLs, and its options."""
    _, table, _ = _tables("Where carts live")
    return [(_CODE.findall(found), _CODE.findall(options)) for found, options, _ in table]


def test_the_schemes_are_those_that_are_taken() -> None:
    """Every scheme of a store's URL stands in the README, and the README names no other."""
    told = [url.partition(":")[0] for found, _ in _urls() for url in found]
    names = ("memory", "lmdb", "valkey", "redis", "keydb", "file", "http", "unix", "dynamodb", "sqlite")
    spelt = {"".join(parts) for parts in product(names, ("", "s", "ss"), ("", "+cluster", "+sentinel", "+tls"))}
    assert sorted(told) == sorted(scheme for scheme in spelt if _is_taken(scheme))


def _is_taken(scheme: str) -> bool:
    return any(_place(f"{scheme}:{rest}") is not None for rest in ("//", "///path", "//host"))


def _place(url: str) -> Place | None:
    try:
        return urls.parse(url)
    except ValueError:
        return None


@pytest.mark.parametrize(("found", "options"), _urls(), ids=lambda cell: cell[0] if cell else "")
def test_the_options_are_those_that_are_taken(
    found: list[str], options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each URL is taken with each of its options, and has no other; what lmdb's show are the defaults."""
    known: list[set[str]] = []
    real = urls._options  # noqa: SLF001 - which ones a scheme takes stands nowhere else

    def asked(parts: object, names: set[str]) -> dict[str, str]:
        known.append(names)
        return real(parts, names)  # type: ignore[arg-type] - what it was given

    monkeypatch.setattr(urls, "_options", asked)
    for url in found:
        plain, full = urls.parse(url), urls.parse("?".join([url, "&".join(options)]) if options else url)
        assert (full == plain) is not url.startswith(("valkeys", "rediss"))
    assert all(names == {option.partition("=")[0] for option in options} for names in known)
    assert len(known) == (0 if found == ["memory://"] else 2 * len(found))


def test_what_a_commit_waits_for_is_explained() -> None:
    """Each value of sync has its row, the default first; the README names them too."""
    table = next(table for table in _tables("LMDB", _STORES) if "sync" in table[0][0])
    assert [_CODE.findall(row[0]) for row in table] == [[f"sync={sync}"] for sync in get_args(urls.Sync)]
    assert urls.LmdbPlace("/x").sync == get_args(urls.Sync)[0]
    assert "`sync` is `on`, `lazy` or `off`" in _README


def test_the_servers_settings_are_those_of_the_compose_file() -> None:
    """docs/stores.md names four that it has, and it has them."""
    table = next(table for table in _tables("Valkey", _STORES) if "maxmemory" in table[0][0])
    settings = [_CODE.findall(row[0])[0] for row in table if row[0].startswith("`")]
    assert len(settings) == 4
    assert [setting for setting in settings if f"- --{setting}" not in _COMPOSE] == []


def test_a_user_of_valkeys_may_do_what_the_store_does() -> None:
    """Whoever is made as docs/stores.md says can read, write, remove, count and be asked how the server is set up."""
    of_carts, _ = _ACL
    with valkey("--appendonly", "yes") as server, server.client() as admin:
        admin.execute_command(*of_carts.split(" "))
        place = urls.parse(server.url.replace("://", "://carts:password@"))
        store = open_store(place, clock=_clock, memory_limit=0, readers=0, timeout=10)
        store.ping()
        put(store, "alice", a_record(_clock))
        assert [user_id for user_id, _ in store.scan()] == ["alice"]
        store.erase("alice")
        assert store.get("alice") is None
        assert store.advice() == []
        assert admin.acl_log() == []
        store.close()


def test_a_user_of_valkeys_may_do_what_rates_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what docs/stores.md adds for it, also when a window has turned into the last one."""
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


def _clock() -> int:
    return time.time_ns() // 1_000_000


def test_the_commands_of_carts_are_those_there_are() -> None:
    """Each stands in the README with its argument and its options, and no other."""
    _, _, table = _tables("Where carts live")
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
    """What from_env() asks the environment for is what the README lists, once each."""
    assert sorted(name for name, *_ in _settings()) == known_settings


def _settings() -> list[tuple[str, str, str]]:
    """Name, default and bounds of each setting, as the README has them."""
    (table,) = _tables("Settings")
    return [(name.strip("`"), default, bounds) for name, default, _, bounds in table]


def test_compose_passes_on_every_setting_but_where_to_listen() -> None:
    """As the README says: what is set where `docker compose up` is called reaches the service."""
    section = _COMPOSE.split("    environment:\n")[1].split("\n\n")[0]
    passed = re.findall(r"^ +- ([A-Z_]+)(?:=\$\{\1:-.*)?$", section, re.MULTILINE)
    settings = {name for name, *_ in _settings()}
    assert settings - set(passed) == {"HOST", "PORT"}


# Those of authentication belong together: tests/test_docs_security.py has them.
_OF_AUTH = re.compile(r"CARTSVC_(AUTH|JWT_\w+|GUEST_KEY)")
_each_setting = pytest.mark.parametrize(
    ("name", "default", "bounds"),
    [row for row in _settings() if not _OF_AUTH.fullmatch(row[0])],
    ids=lambda cell: cell.split()[0],
)


@_each_setting
def test_a_default_is_the_one_told(name: str, default: str, bounds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting a setting to what the README calls its default changes nothing; to something else, it does."""
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
    """What the README allows is taken, and what is just outside is refused, in the README's words."""
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


def _with(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> Settings:
    monkeypatch.setenv(name, value)
    return Settings.from_env()


def _changed(before: Settings, after: Settings) -> Iterator[object]:
    """The earlier values of the settings that are not as they were."""
    for field in Settings.__struct_fields__:
        if getattr(before, field) != getattr(after, field):
            yield getattr(before, field)


def _allowed(bounds: str) -> list[str]:
    return [str(bound) for bound in _span(bounds)] or _CODE.findall(bounds)


def _span(bounds: str) -> list[float]:
    """Both ends of "1 KiB to 16 MiB"; nothing when it is no such cell."""
    ends = re.fullmatch(r"([\d,.]+ ?\w*) to ([\d,.]+ ?\w*)", bounds.removesuffix(_FRACTIONS))
    return [_number(end) for end in ends.groups()] if ends else []


def _number(text: str) -> float:
    digits, _, unit = text.replace(",", "").partition(" ")
    return float(digits) if "." in digits else int(digits) * _UNITS[unit]


# ---- the tour ----

_MASKS = (
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "(time)"),
    (re.compile(r'^ETag: "[\w-]{16}"$', re.MULTILINE), "ETag: (tag)"),
    (re.compile(r"^Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$", re.MULTILINE), "Date: (date)"),
    (re.compile(r"^Server: .+$", re.MULTILINE), "Server: (server)"),
)
_GUEST = re.compile(r"guest-[\w-]{22}")


def _steps() -> Iterator[tuple[str, str]]:
    """Each command of the README's console blocks, and what it shows below it."""
    for block in re.findall(r"^```console\n(.*?)^```$", _README, re.MULTILINE | re.DOTALL):
        start, *steps = re.split(r"^\$ ", block, flags=re.MULTILINE)
        assert start == ""
        for step in steps:
            command = re.match(r"(?:.*\\\n)*.*\n", step)
            assert command is not None
            yield command[0].rstrip("\n"), step[command.end() :]


def test_the_tour_shows_what_happens(tmp_path: Path) -> None:
    """Each command, run against a fresh server, answers what the README shows, but for times, tags and server."""
    steps = list(_steps())
    assert [command for command, _ in steps if not command.startswith("curl ")] == []
    # Neither a .curlrc nor a proxy of whoever runs the tests has a say.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NO_PROXY": "*"}
    with serve() as server:
        here = server.url.removeprefix("http://")
        guests: dict[str, str] = {}  # the id that the README shows, and the one that was made just now
        for command, shown in steps:
            answered = subprocess.run(
                ["bash", "-c", _renamed(command, guests).replace("localhost:8080", here)],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=30,
                check=True,
            )
            for id_shown, id_made in zip(_GUEST.findall(shown), _GUEST.findall(answered.stdout), strict=False):
                guests.setdefault(id_shown, id_made)
            assert _masked(answered.stdout) == _masked(_renamed(shown, guests)), command
        assert len(guests) == 1


def _renamed(text: str, guests: dict[str, str]) -> str:
    return _GUEST.sub(lambda found: guests.get(found[0], found[0]), text)


def _masked(output: str) -> str:
    for pattern, mask in _MASKS:
        output = pattern.sub(mask, output)
    if output.startswith("HTTP/"):
        head, _, body = output.partition("\n\n")
        output = "\n".join(sorted(head.splitlines())) + "\n\n" + body  # the order of headers means nothing
    return output.rstrip("\n")  # JSON answers end without one, answers without a body with an empty line


def test_the_tour_goes_everywhere() -> None:
    """The tour uses every method that carts have and every header that writes take, makes a guest and merges it."""
    commands = [command for command, _ in _steps()]
    stated = {method for command in commands for method in re.findall(r"-X (\w+)", command)}
    assert stated == {"POST", "PUT", "PATCH", "DELETE"}
    shown = "".join(shown for _, shown in _steps())
    met = set(re.findall(r"urn:cartsvc:problem:([a-z-]+)", shown))
    assert met == {"precondition-failed", "invalid-request"}
    assert "Idempotency-Replayed: true" in shown
    assert any("/merge " in command for command in commands)


# ---- commands and links ----


def test_the_commands_are_those_of_the_makefile() -> None:
    """Every `make` command that a page names is there, and docs/contributing.md names them all."""
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
    """Every relative link of a page leads to a file that is there, and to a heading that is in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            assert not anchor or anchor in _anchors(file), target


def test_every_decision_is_in_the_index() -> None:
    """docs/decisions/README.md leads to every page beside it, by its title."""
    folder = _ROOT / "docs" / "decisions"
    titles = {file.name: file.read_text().splitlines()[0].removeprefix("# ") for file in folder.glob("0*.md")}
    listed = re.findall(r"\[(.+?)\]\((0.+?\.md)\)", (folder / "README.md").read_text())
    assert sorted(listed) == sorted((title, name) for name, title in titles.items())


@cache
def _anchors(page: Path) -> set[str]:
    """What a heading is called in a link to it: in small letters, spaces as hyphens, without punctuation."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
