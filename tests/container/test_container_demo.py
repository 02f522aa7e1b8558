"""The demo shop as `docker compose --profile demo up` serves it, and the cart service that stays as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.compose import docker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.compose import Project

pytestmark = pytest.mark.container

_PROFILE = ("--profile", "demo")


@pytest.fixture(scope="module")
def demo(project: Project) -> Iterator[Project]:
    """The project with its profile demo, healthy. Ports 8080, 8090 and 8091 must be free."""
    try:
        project.compose(*_PROFILE, "build", "demo")
        project.compose(*_PROFILE, "up", "--detach", "--wait", "--no-build")
        yield project
    finally:
        project.compose(*_PROFILE, "rm", "--stop", "--force", "demo")
        docker("image", "rm", "--force", f"{project.name}-demo", expected=None)


def test_the_demo_has_a_page_and_tokens(demo: Project) -> None:
    """Its page signs in Ada, and its own cart service accepts her token and needs one."""
    with demo.client(port=8090) as page, demo.client(port=8091) as carts:
        assert "<title>Feldweg</title>" in page.get("/").text
        assert page.get("/settings.json").json() == {"service": "http://127.0.0.1:8091"}
        page.post("/session", json={"user": "ada"})
        headers = {
            "Authorization": f"Bearer {page.get('/cart-token').json()['token']}",
            "Origin": "http://localhost:8090",
        }
        opened = carts.get("/cart/ada", headers=headers)
        assert (opened.status_code, opened.headers["Access-Control-Allow-Origin"]) == (200, headers["Origin"])
        assert carts.get("/cart/ada").status_code == 401


def test_the_cart_service_next_to_it_is_untouched(demo: Project) -> None:
    """On its own port, without authentication and without the carts of the demo."""
    with demo.client() as carts:
        assert carts.get("/cart/ada").json()["version"] == 0
    assert "CARTSVC_AUTH" not in demo.execute("env").stdout


def test_the_demo_is_reached_from_this_machine_alone(demo: Project) -> None:
    """Its ports are those of the loopback address, and its container may do nothing that it does not need."""
    state = demo.state("demo")
    ports = state["NetworkSettings"]["Ports"]
    assert {port: [each["HostIp"] for each in bound or []] for port, bound in ports.items()} == {
        "8080/tcp": [],
        "8090/tcp": ["127.0.0.1"],
        "8091/tcp": ["127.0.0.1"],
    }
    host = state["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
    assert [mount["RW"] for mount in state["Mounts"]] == [False]


def test_a_stop_is_clean(demo: Project) -> None:
    """With an idle connection open to each port, the page and its cart service end with exit code 0."""
    with httpx.Client(trust_env=False) as client:
        for url in ("http://127.0.0.1:8090/", "http://127.0.0.1:8091/healthz"):
            assert client.get(url).status_code == 200
        demo.compose(*_PROFILE, "stop", "demo")
    assert demo.state("demo")["State"]["ExitCode"] == 0
