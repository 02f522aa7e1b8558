"""Run what docs/operations.md shows, and hold its configurations of proxies to the settings of the service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cartsvc.errors import StoreError
from cartsvc.settings import Settings
from cartsvc.version import __version__
from tests.support.http_clients import Client
from tests.support.servers import serve
from tests.support.valkey_store import opened
from tests.support.valkeys import valkey

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "operations.md").read_text()


def _section(heading: str) -> str:
    return re.split(r"^##+ ", _PAGE.split(f"# {heading}\n")[1], flags=re.MULTILINE)[0]


def _block(heading: str, kind: str) -> str:
    """Return the only block of this kind in the section."""
    (block,) = re.findall(rf"^```{kind}\n(.*?)^```$", _section(heading), re.MULTILINE | re.DOTALL)
    return block


@pytest.fixture
def defaults() -> Settings:
    """The settings of a service for which nothing is set."""
    return Settings.from_env({})


@pytest.mark.server
def test_a_new_version_is_checked_as_told(tmp_path: Path) -> None:
    """The server is ready, and every record of its store can be read."""
    url = f"lmdb://{tmp_path}/store"
    with serve(CARTSVC_STORE_URL=url, WEB_CONCURRENCY="1") as server:
        with Client(server.url) as client:
            assert client.call("POST", "/cart/alice", {"product_id": "mug", "quantity": 1}).status == 200
        script = _block("Upgrade and roll-back", "sh").replace("localhost:8080", server.url.removeprefix("http://"))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"PATH": path, "HOME": str(tmp_path), "NO_PROXY": "*", "CARTSVC_STORE_URL": url}
        ended = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=_ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert f'"version":"{__version__}"' in ended.stdout
    assert '"writes":"ok"' in ended.stdout
    assert '"carts": 1' in ended.stdout


def test_a_password_of_valkey_is_rotated_as_told() -> None:
    """Both passwords are valid between the two commands, and only the new one after them."""
    add, remove = re.findall(r"`(ACL SETUSER carts [><]\w+)`", _section("Rotating keys and passwords"))
    with valkey() as server, server.client() as admin:
        admin.execute_command(*["ACL", "SETUSER", "carts", "on", ">old", "~cart:*", "+@all"])

        def accepts(password: str) -> bool:
            with opened(server.url.replace("://", f"://carts:{password}@")) as store:
                try:
                    store.ping()
                except StoreError:
                    return False
                return True

        seen = [[accepts("old"), accepts("new")]]
        for command in (add, remove):
            admin.execute_command(*command.split())
            seen.append([accepts("old"), accepts("new")])
    assert seen == [[True, False], [True, True], [False, True]]


def test_nginx_fits_the_defaults(defaults: Settings) -> None:
    """Its idle connections end before those of the service, and its limit of a body is that of the service."""
    block = _block("nginx", "nginx")
    values = {name: int(value) for name, value in re.findall(r"(\w+) (\d+)[sk]?;", block)}
    assert values["keepalive_timeout"] < defaults.keep_alive
    assert values["client_max_body_size"] * 1024 == defaults.max_body
    assert values["proxy_read_timeout"] > defaults.store_timeout
    assert f"server cart-service:{defaults.port};" in block


def test_caddy_fits_the_defaults(defaults: Settings) -> None:
    """Its idle connections end before those of the service, and it asks whether the service is ready."""
    block = _block("Caddy", "caddyfile")
    values = {name: int(value) for name, value in re.findall(r"^\s*(\w+) (\d+)s$", block, re.MULTILINE)}
    assert values["keepalive"] < defaults.keep_alive
    assert values["response_header_timeout"] > defaults.store_timeout
    assert f"reverse_proxy cart-service:{defaults.port} {{" in block
    assert "health_uri /readyz" in block


def test_every_proxy_closes_first(defaults: Settings) -> None:
    """In the table, CARTSVC_KEEP_ALIVE is above the idle timeout of each proxy, with its defaults too."""
    rows = re.findall(
        r"^\| (\[.*?\]\(#.*?\).*?) \| (.*?) \| (.*?) \| `\d` \|$", _section("Behind a proxy"), re.MULTILINE
    )
    assert len(rows) == 5
    for proxy, idle, keep_alive in rows:
        seconds = [int(n) * (60 if unit == "minutes" else 1) for n, unit in re.findall(r"(\d+) (s|minutes)", idle)]
        settings = [int(each) for each in re.findall(r"`(\d+)`", keep_alive)]
        if seconds:
            assert len(seconds) == len(settings), proxy
        assert [pair for pair in zip(seconds, settings, strict=False) if pair[0] >= pair[1]] == []
        assert {each for each in settings if each < 60} <= {defaults.keep_alive}
