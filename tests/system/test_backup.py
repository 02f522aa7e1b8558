"""The drills of docs/operations.md: fill a store, back it up as on the page, restore into another one, and compare."""

from __future__ import annotations

import os
import re
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from cartsvc import create_app
from tests.support.postgresqls import programs
from tests.support.programs import output_of
from tests.support.servers import STARTUP
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask.testing import FlaskClient

    from tests.support.postgresqls import Postgresql

pytestmark = pytest.mark.usefixtures("nothing_set")

_ROOT = Path(__file__).parents[2]
_SECTION = re.split(r"^## ", (_ROOT / "docs" / "operations.md").read_text().split("\n### Rehearse a restore\n")[1])[0]
_EXPORT, _DUMP = re.findall(r"^```sh\n(.*?)^```$", _SECTION, re.MULTILINE | re.DOTALL)[:2]
_KEY = {"Idempotency-Key": "once"}
_MUG = {"product_id": "mug", "quantity": 2, "unit_price": 950, "currency": "EUR", "options": {"größe": "L"}}


class Shop(NamedTuple):
    """The store of a service, and an empty one."""

    url: str
    spare: str


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], FlaskClient]:
    """Return a function that returns a client of a service on the store at a URL."""

    def client(url: str) -> FlaskClient:
        monkeypatch.setenv("CARTSVC_STORE_URL", url)
        return create_app().test_client()

    return client


def _fill(client: FlaskClient) -> dict[str, Any]:
    """Add carts of users and a guest, merge one, delete one; return what responses show afterwards."""
    guest = client.post("/cart").get_json()["user_id"]
    for user in ("alice", "bob", "carol", guest, "dave"):
        assert client.post(f"/cart/{user}", json=_MUG, headers=_KEY).status_code == 200
    assert (
        client.post("/cart/alice/merge", json={"from_user_id": guest}, headers={"Idempotency-Key": "m"}).status_code
        == 200
    )
    assert client.delete("/cart/dave").status_code == 204
    return _shown(client, guest)


def _shown(client: FlaskClient, guest: str) -> dict[str, Any]:
    """Return all carts with their ETags, the replay of an add, and the response to the closed guest."""
    shown: dict[str, Any] = {"guest": guest}
    for user in ("alice", "bob", "carol", "dave"):
        response = client.get(f"/cart/{user}")
        shown[user] = (response.get_json(), response.headers.get("ETag"))
    replay = client.post("/cart/bob", json=_MUG, headers=_KEY)
    shown["replay"] = (replay.get_json(), replay.headers.get("Idempotency-Replayed"))
    shown["closed"] = client.post(f"/cart/{guest}", json=_MUG).get_json()["type"]
    return shown


def _bash(script: str, directory: Path, shop: Shop) -> str:
    """Run commands of the page in this directory."""
    paths = [str(Path(sys.executable).parent), str(programs()), os.environ["PATH"]]
    environment = {"PATH": ":".join(paths), "HOME": str(directory), "PYTHONPATH": f"{STARTUP}:{_ROOT}"}
    environment |= {"STORE": shop.url, "SPARE": shop.spare}
    return output_of(["bash", "-e", "-o", "pipefail", "-c", script], cwd=directory, env=environment, timeout=60)


@contextmanager
def _lmdb(tmp_path: Path, _: pytest.FixtureRequest) -> Iterator[Shop]:
    yield Shop(f"lmdb://{tmp_path}/one", f"lmdb://{tmp_path}/two")


@contextmanager
def _valkey(_: Path, __: pytest.FixtureRequest) -> Iterator[Shop]:
    with valkey() as server:
        yield Shop(f"{server.url}/0", f"{server.url}/1")


@contextmanager
def _postgresql(_: Path, request: pytest.FixtureRequest) -> Iterator[Shop]:
    yield _databases(request.getfixturevalue("postgresql_server"))


def _databases(server: Postgresql) -> Shop:
    """Return two empty databases."""
    server.ask("DROP DATABASE IF EXISTS spare WITH (FORCE)")
    server.ask("CREATE DATABASE spare")
    return Shop(server.url_of(server.empty_database()), server.url_of("spare"))


@pytest.mark.parametrize(
    "store",
    [
        pytest.param(_lmdb, id="lmdb"),
        # The commands use a store as the service does; the snapshot and the dump of these are restored below.
        pytest.param(_valkey, id="valkey", marks=pytest.mark.soak),
        pytest.param(_postgresql, id="postgresql", marks=pytest.mark.soak),
    ],
)
def test_an_export_restores_everything(
    store: Any, tmp_path: Path, request: pytest.FixtureRequest, opened: Callable[[str], FlaskClient]
) -> None:
    """Carts, versions, ETags, keys and closed guests are as before, and a second export has the same lines."""
    with store(tmp_path, request) as shop:
        before = _fill(opened(shop.url))
        told = _bash(_EXPORT, tmp_path, shop)
        assert told.endswith("The restore is complete.\n")
        assert _shown(opened(shop.spare), before["guest"]) == before


def test_a_dump_of_postgresql_restores_everything(
    tmp_path: Path, postgresql_server: Postgresql, opened: Callable[[str], FlaskClient]
) -> None:
    """pg_dump and pg_restore, as on the page."""
    shop = _databases(postgresql_server)
    before = _fill(opened(shop.url))
    _bash(_DUMP, tmp_path, shop)
    assert _shown(opened(shop.spare), before["guest"]) == before


def test_a_snapshot_of_valkey_restores_everything(opened: Callable[[str], FlaskClient]) -> None:
    """In the steps of the page; without them, a server with an append-only file starts without carts."""
    always = ("--appendfsync", "always", "--appendonly")
    with valkey(*always, "yes") as server, server.client() as client:
        before = _fill(opened(server.url))
        client.bgsave()
        server.wait_until(lambda each: not each.info("persistence")["rdb_bgsave_in_progress"])
        snapshot = server.directory / "dump.rdb"
        with valkey(*always, "yes") as wrong, valkey(*always, "no") as spare:
            for each in (wrong, spare):
                each.stop()
                shutil.rmtree(each.directory / "appendonlydir", ignore_errors=True)
                shutil.copy(snapshot, each.directory)
                each.start()
            assert opened(wrong.url).get("/cart/alice").get_json()["version"] == 0
            with spare.client() as restored:
                restored.config_set("appendonly", "yes")
            spare.wait_until(lambda each: not each.info("persistence")["aof_rewrite_in_progress"])
            spare.options = (*always, "yes")
            spare.stop()
            (spare.directory / "dump.rdb").unlink()
            spare.start()
            assert _shown(opened(spare.url), before["guest"]) == before


def test_a_copy_of_lmdb_restores_everything(tmp_path: Path, opened: Callable[[str], FlaskClient]) -> None:
    """The directory of a service that has stopped."""
    client = opened(f"lmdb://{tmp_path}/one")
    before = _fill(client)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert _shown(opened(f"lmdb://{tmp_path}/two"), before["guest"]) == before
