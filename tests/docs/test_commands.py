"""Holds the variables and commands of every page to the code: what a reader would set or run in vain fails here."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from cartsvc import create_app
from cartsvc.stores import urls

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[2]
_COMPOSE = (_ROOT / "docker-compose.yml").read_text()
_MAKEFILE = (_ROOT / "Makefile").read_text()
_DOCKERFILE = (_ROOT / "Dockerfile").read_text()
_PAGES = sorted([*_ROOT.glob("*.md"), *_ROOT.glob("docs/**/*.md")])
_SHELL = re.compile(r"^```(?:sh|console|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_ASSIGNED = re.compile(r"""(?:^|(?<=[\s"';(]))([A-Z][A-Z0-9_]*)=""")
_BEFORE_COMPOSE = re.compile(r"(?:^|\s)((?:[A-Z_]+=\S*\s+)+)docker compose")
_MAKE = re.compile(r"(?:^|[;&|]\s*|[A-Z_]+=\S*\s+)make ([a-z-]+)")
_CARTS = re.compile(r"\bflask(?: --app wsgi)? carts ([a-z-]+)([^|;&]*)")
_GUNICORN = {"GUNICORN_CMD_ARGS"}  # gunicorn's own

_each_page = pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.relative_to(_ROOT).as_posix())


def _commands(text: str) -> list[str]:
    """Return what a page shows as code: each line of its shell blocks, continued lines joined, and inline code."""
    lines: list[str] = []
    for block in _SHELL.findall(text):
        lines += [line.removeprefix("$ ") for line in block.replace("\\\n", " ").splitlines()]
    return lines + _INLINE.findall(re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def _assigned(text: str) -> set[str]:
    """Return the variables that the code of a page sets."""
    return {name for line in _commands(text) for name in _ASSIGNED.findall(line)}


def _targets(text: str) -> set[str]:
    """Return the targets of make that the code of a page names."""
    return {name for line in _commands(text) for name in _MAKE.findall(line)}


def _carts(text: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each `flask carts` command that the code of a page names, with its options."""
    for line in _commands(text):
        for name, rest in _CARTS.findall(line):
            yield name, set(re.findall(r"(?<=\s)--[a-z-]+", rest))


def _of_compose() -> set[str]:
    """Return the variables that docker-compose.yml reads or passes on; what it fixes is not among them."""
    return set(re.findall(r"\$\{([A-Z_]+)", _COMPOSE)) | set(re.findall(r"^ +- ([A-Z_]+)$", _COMPOSE, re.MULTILINE))


def _of_dockerfile() -> set[str]:
    """Return the variables of `docker compose build --build-arg`."""
    return set(re.findall(r"^ARG ([A-Z_]+)=", _DOCKERFILE, re.MULTILINE))


def _of_make() -> set[str]:
    """Return the variables that the Makefile takes from its caller."""
    return set(re.findall(r"(?:^|\$\(or \$\()([A-Z_]+)(?= \?=|\),)", _MAKEFILE, re.MULTILINE))


@cache
def _of_tests() -> set[str]:
    """Return the variables that the tests and the benchmark read."""
    files = [*_ROOT.glob("tests/**/*.py"), *_ROOT.glob("bench/**/*.py")]
    return {name for file in files for name in re.findall(r'environ\.get\("([A-Z_]+)"', file.read_text())}


@cache
def _options() -> dict[str, set[str]]:
    """Return the commands of `flask carts`, with their options."""
    group = create_app().cli.commands["carts"]
    assert isinstance(group, click.Group)
    return {name: {each for param in it.params for each in param.opts} for name, it in group.commands.items()}


# ---- what is looked for is found ----


def test_what_pages_set_and_run_is_found() -> None:
    """Each form that pages use: in a block, continued, in a table, behind another variable; and no more than that."""
    page = "`PUBLISH=127.0.0.1:8080` keeps it there.\n| x | `A=1 B_2=2 docker compose up` |\n```sh\nexport C=1 D=2\n"
    page += (
        "$ docker run \\\n  -e E=1 x\n$ F=1 make soak && make x-y; flask --app wsgi carts purge --user U --yes\n```\n"
    )
    page += "```js\nG=1; make z\n```\nMost make do with H=1. `lower=1`, `?I=1`, `J == 1`\n"
    assert _assigned(page) == {"PUBLISH", "A", "B_2", "C", "D", "E", "F"}
    assert _targets(page) == {"soak", "x-y"}
    assert list(_carts(page)) == [("purge", {"--user", "--yes"})]


def test_what_programs_read_is_found() -> None:
    """One of each, and none of those that the compose file fixes."""
    assert {"CART_SERVICE_PORTS", "COMPOSE_PROFILES", "CARTSVC_STORE_URL", "CARTSVC_AUTH"} <= _of_compose()
    assert {"HOST", "PORT"} & _of_compose() == set()
    assert _of_dockerfile() == {"REQUIREMENTS"}
    assert _of_make() == {"PYTHON", "SEED", "URL", "USERS", "TIME", "TOKENS"}
    assert {"CHROMIUM", "HYPOTHESIS_PROFILE"} <= _of_tests()


# ---- pages ----


@_each_page
def test_every_setting_that_a_page_names_exists(page: Path, known_settings: list[str]) -> None:
    """A name of CARTSVC_ is a setting; one that ends in _ stands for all that begin with it."""
    named = set(re.findall(r"\bCARTSVC_[A-Z0-9_]*", page.read_text()))
    groups = {name for name in named if name.endswith("_") and any(each.startswith(name) for each in known_settings)}
    assert named - groups - {*known_settings} == set()


@_each_page
def test_every_variable_that_a_page_sets_is_read(page: Path, known_settings: list[str]) -> None:
    """By the service, compose, make, gunicorn or the tests: another one would be set in vain, and in silence."""
    read = {*known_settings} | _of_compose() | _of_dockerfile() | _of_make() | _of_tests() | _GUNICORN
    assert _assigned(page.read_text()) - read == set()


@_each_page
def test_every_variable_before_compose_is_one_of_its(page: Path) -> None:
    """In front of `docker compose` only what docker-compose.yml reads or passes on has an effect."""
    groups = [group for line in _commands(page.read_text()) for group in _BEFORE_COMPOSE.findall(line)]
    assert {name for group in groups for name in re.findall(r"([A-Z_]+)=", group)} - _of_compose() == set()


@_each_page
def test_every_target_that_a_page_names_exists(page: Path) -> None:
    """Each `make` command is one that `make help` lists."""
    assert _targets(page.read_text()) - set(re.findall(r"^([a-z-]+):.*## ", _MAKEFILE, re.MULTILINE)) == set()


@_each_page
@pytest.mark.usefixtures("nothing_set")
def test_every_command_on_carts_that_a_page_names_exists(page: Path) -> None:
    """With each of its options."""
    known = _options()
    for name, options in _carts(page.read_text()):
        assert options - known[name] == set(), name


def test_the_pages_have_what_these_tests_look_for() -> None:
    """Pages that were moved or written in another way would pass all of the above."""
    texts = [page.read_text() for page in _PAGES]
    assert {name for text in texts for name in _assigned(text)} >= {"CART_SERVICE_PORTS", "COMPOSE_PROFILES", "SEED"}
    assert {name for text in texts for name in _targets(text)} >= {"run", "test", "soak"}
    assert {name for text in texts for name, _ in _carts(text)} >= {"export", "import"}
    stores = {url for text in texts for url in re.findall(r"CARTSVC_STORE_URL=(lmdb:\S+?)(?=[\s`])", text)}
    assert stores
    for url in stores:  # is where docker-compose.yml has its volume
        place = urls.parse_store_url(url)
        assert isinstance(place, urls.LmdbConfig)
        assert f":{place.path}\n" in _COMPOSE
