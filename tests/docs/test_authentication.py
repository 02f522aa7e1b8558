"""Compare docs/authentication.md and docs/security.md with the code: examples, names and numbers."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cartsvc import create_app
from cartsvc.api.problems import PROBLEM_BY_ERROR, PROBLEM_BY_STATUS
from cartsvc.auth import keys, tokens
from cartsvc.settings import Settings
from tests.support.programs import output_of
from tests.support.servers import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

_DOCS = Path(__file__).parents[2] / "docs"
_PAGE = (_DOCS / "authentication.md").read_text()
_SECURITY = (_DOCS / "security.md").read_text()
_OF_AUTH = re.compile(r"CARTSVC_(AUTH|JWT_\w+|GUEST_\w+)")
_NEXT = "----- next -----"
_MASKS = (
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"), "(time)"),
    (re.compile(r"guest-[\w-]{22}"), "(guest)"),
    # The header contains only the type, so it is always the same; the claims and the signature vary.
    (re.compile(r"(eyJhbGciOiJIUzI1NiIsInR5cCI6ImNhcnRzdmMtZ3Vlc3Qrand0In0)\.eyJ[\w.-]+"), r"\1.(claims)"),
    (re.compile(r"^Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$", re.MULTILINE), "Date: (date)"),
    (re.compile(r"^Server: .+$", re.MULTILINE), "Server: (server)"),
    (re.compile(r"((?:^X-Request-ID: |urn:cartsvc:request:))[0-9a-f]{16}\b", re.MULTILINE), r"\1(id)"),
    # The order of headers means nothing.
    (re.compile(r"(?<=^HTTP/1.1 401 UNAUTHORIZED\n)(?:.+\n)+", re.MULTILINE), lambda head: _sorted(head[0])),
)


def _sorted(lines: str) -> str:
    return "".join(sorted(lines.splitlines(keepends=True)))


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", _PAGE, re.MULTILINE | re.DOTALL)


def _steps() -> Iterator[tuple[str, str]]:
    """Yield each command of the console blocks, and the output shown below it. A function ends at its brace."""
    for block in _blocks("console"):
        start, *steps = re.split(r"^\$ ", block, flags=re.MULTILINE)
        assert start == ""
        for step in steps:
            command = re.match(r"\w+\(\) \{(?:.*\n)*?.*; \}\n|(?:.*\\\n)*.*\n", step)
            assert command is not None
            yield command[0].rstrip("\n"), step[command.end() :]


def _bash(script: str, directory: Path, settings: dict[str, str]) -> str:
    # Without the developer's .curlrc and proxy; python3 is the interpreter of the tests.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(directory), "NO_PROXY": "*"} | settings
    command = ["bash", "-e", "-o", "pipefail", "-c", script.replace(".venv/bin/python", sys.executable)]
    return output_of(command, cwd=directory, env=environment, timeout=60)


def _started(block: str, directory: Path) -> dict[str, str]:
    """Return the settings that a block of commands passes to `make run`."""
    told = _bash(f"make() {{ env -0; }}\n{block}wait", directory, {})
    settings = dict(each.split("=", 1) for each in told.split("\0") if each.startswith("CARTSVC_"))
    assert settings["CARTSVC_AUTH"] == "jwt"
    return settings


@pytest.fixture
def issuer(tmp_path: Path) -> ec.EllipticCurvePrivateKey:
    """Return a private key; its public key is in issuer-public.pem."""
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "issuer-public.pem").write_bytes(public)
    return private


# ---- the examples ----


@pytest.mark.server
def test_the_examples_show_what_happens(tmp_path: Path) -> None:
    """Each command prints what the page shows, in one shell, with a server started as on the page."""
    steps = list(_steps())
    settings = _started(_blocks("sh")[0], tmp_path)
    with serve(WEB_CONCURRENCY="1", **settings) as server:
        here = server.url.removeprefix("http://")
        script = "".join(f"{command}\necho; echo '{_NEXT}'\n" for command, _ in steps)
        told = _bash(script.replace("localhost:8080", here), tmp_path, settings)
        log = server.log()
    told_each = told.split(f"\n{_NEXT}\n")
    assert told_each.pop() == ""
    for (command, shown), answered in zip(steps, told_each, strict=True):
        assert _masked(answered) == _masked(shown), command
    assert "CARTSVC_AUTH=none" not in log


def _masked(output: str) -> str:
    output = output.replace("\r\n", "\n")
    for pattern, mask in _MASKS:
        output = pattern.sub(mask, output)
    return output.rstrip("\n")


def test_the_examples_go_everywhere() -> None:
    """They use a token of a user, a guest and a service, renew and merge, and get a 401 and a 403."""
    commands = "".join(command for command, _ in _steps())
    for part in ("issue alice", "carts:all", "-X POST localhost:8080/cart -H", "/merge", "from_token"):
        assert part in commands
    assert set(re.findall(r'problem:([a-z-]+)"', "".join(shown for _, shown in _steps()))) == {
        "unauthorized",
        "forbidden",
    }


@pytest.mark.usefixtures("nothing_set", "issuer")
@pytest.mark.parametrize("block", _blocks("sh"), ids=lambda block: re.findall(r"CARTSVC_JWT_\w+", block)[0])
def test_each_way_to_start_is_one(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings on the page suffice for a start, and none is misspelt."""
    for name, value in _started(block, tmp_path).items():
        monkeypatch.setenv(name, value)
    settings = Settings.from_env()
    assert settings.auth is not None
    assert settings.warnings == ()


@pytest.mark.usefixtures("nothing_set")
def test_a_pem_key_is_set_up_as_told(
    tmp_path: Path, issuer: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    r"""A token signed with the private key grants access to its cart only, also if the key has \n for line ends."""
    (block,) = [each for each in _blocks("sh") if "issuer-public.pem" in each]
    settings = _started(block, tmp_path)
    pem = settings["CARTSVC_JWT_KEY"]
    token = jwt.encode({"sub": "alice", "exp": int(time.time()) + 60}, issuer, "ES256")
    for written in (pem, pem.replace("\n", "\\n")):
        for name, value in (settings | {"CARTSVC_JWT_KEY": written}).items():
            monkeypatch.setenv(name, value)
        client = create_app().test_client()
        headers = {"Authorization": f"Bearer {token}"}
        assert [client.get(f"/cart/{who}", headers=headers).status_code for who in ("alice", "bob")] == [200, 403]


# ---- names and numbers ----


@pytest.mark.parametrize("page", [_PAGE, _SECURITY], ids=["authentication", "security"])
def test_no_other_settings_are_named(page: str, known_settings: list[str]) -> None:
    """Every name that begins with CARTSVC_ is a setting."""
    named = set(re.findall(r"CARTSVC_\w+", page))
    assert len(named) >= 5
    assert named - {*known_settings} == set()


def test_every_setting_of_authentication_is_explained(known_settings: list[str]) -> None:
    """The steps under "Set it up" name each of them, and no other setting; another section explains rates."""
    (steps,) = [part for part in _PAGE.split("\n## ") if part.startswith("Set it up\n")]
    named = set(re.findall(r"`(CARTSVC_\w+)", steps.partition("\n### ")[0]))
    assert named == {name for name in known_settings if _OF_AUTH.fullmatch(name)}
    assert {"CARTSVC_RATE_LIMIT", "CARTSVC_TRUSTED_PROXIES"} <= set(re.findall(r"CARTSVC_\w+", _PAGE))


def test_the_table_of_algorithms_is_the_codes() -> None:
    """Every algorithm has its row, with the required length of its secret."""
    rows = [row for row in _rows() if re.match(r"`(HS|RS|ES|Ed)", row[0])]
    told = [name for row in rows for name in _code(row[0])]
    assert told == [*keys.HMAC_MIN_BYTES, *keys.PUBLIC_KEY_ALGORITHMS]
    lengths = {_code(name)[0]: int(found[1]) for name, key in rows if (found := re.search(r"(\d+) bytes", key))}
    assert lengths == keys.HMAC_MIN_BYTES


def test_what_a_token_must_have_is_the_codes() -> None:
    """The page states the accepted types, the leeway, and the scope for every cart."""
    (types,) = [row[1] for row in _rows() if row[0] == "header `typ`"]
    assert [None, *(each.lower() for each in _code(types))] == list(tokens._ACCESS_TOKEN_TYPES)  # noqa: SLF001 - the page states it
    assert f"may differ by {tokens._LEEWAY_S} seconds" in _PAGE  # noqa: SLF001 - as above
    assert f"**`{tokens._ALL_CARTS}`**" in _PAGE  # noqa: SLF001 - as above


def test_the_table_of_refusals_is_the_one_of_problems() -> None:
    """Each row's status and slug belong together."""
    kinds = {(str(kind.status), f"`{kind.slug}`") for kind in (*PROBLEM_BY_ERROR.values(), *PROBLEM_BY_STATUS.values())}
    told = [(row[0], row[1]) for row in _rows() if row[0].isdigit()]
    assert {status for status, _ in told} == {"400", "401", "403", "429", "503"}
    assert set(told) <= kinds


def _rows() -> list[list[str]]:
    """Return the cells of every row of every table of the page."""
    tables = re.findall(r"^\|(.+)\|$", _PAGE, re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in tables]


def _code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)
