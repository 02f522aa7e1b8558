"""The containers of deploy/kubernetes, run by Docker with the restrictions and the volumes of their pods."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest

from tests.support.compose import SECONDS, docker, started
from tests.support.manifests import DEPLOYMENTS, environment, named, rendered, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.compose import Project

pytestmark = pytest.mark.container

_PASSWORD = "0123456789abcdef" * 3  # of a server that runs only during a test
_SECRET = {
    "store-url": f"valkey://:{_PASSWORD}@cartsvc-valkey:6379/0",
    "valkey-password": _PASSWORD,
    "jwt-key": f"jwt-{_PASSWORD}",
    "guest-key": f"guest-{_PASSWORD}",
}


@contextmanager
def _options(pod: dict[str, Any], network: str) -> Iterator[list[str]]:
    """Yield the options of `docker run` for a pod's only container: user, rights, memory, volumes, network."""
    (container,) = pod["containers"]
    context, group = pod["securityContext"], pod["securityContext"]["fsGroup"]
    options = [f"--user={context['runAsUser']}:{context['runAsGroup']}", f"--group-add={group}", "--read-only"]
    options += [f"--cap-drop={each}" for each in container["securityContext"]["capabilities"]["drop"]]
    options += ["--security-opt=no-new-privileges:true", f"--network={network}"]
    options += [f"--memory={size(container['resources']['limits']['memory'])}"]
    limits = {each["name"]: each["emptyDir"]["sizeLimit"] for each in pod.get("volumes", []) if "emptyDir" in each}
    with ExitStack() as stack:
        for mount in container["volumeMounts"]:
            if mount["name"] in limits:
                size_limit = size(limits[mount["name"]])
                options.append(f"--tmpfs={mount['mountPath']}:mode=2770,uid=0,gid={group},size={size_limit}")
            else:
                volume = stack.enter_context(_volume(group))
                options.append(f"--mount=type=volume,source={volume},target={mount['mountPath']},volume-nocopy")
        yield options


@contextmanager
def _volume(group: int) -> Iterator[str]:
    """Create a volume as a claim with an fsGroup is: the group may write, and no user of the container owns it."""
    volume = docker("volume", "create").stdout.strip()
    try:
        script = f"chown 0:{group} /volume && chmod 2770 /volume"
        docker("run", "--rm", f"--volume={volume}:/volume", "python:3.13-slim", "sh", "-c", script)
        yield volume
    finally:
        docker("volume", "rm", volume)


@contextmanager
def _valkey(network: str) -> Iterator[None]:
    """Run the Valkey server of the base in this network, until the block ends; its probe must succeed."""
    pod = named(rendered("base"), "StatefulSet", "cartsvc-valkey")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (variable,) = [each["name"] for each in container["env"]]
    command = [each.replace(f"$({variable})", _PASSWORD) for each in container["args"]]
    own = [f"--env={variable}={_PASSWORD}", "--network-alias=cartsvc-valkey"]
    with _options(pod, network) as options, _run(container["image"], *options, *own, command=command) as server:
        probe = container["readinessProbe"]["exec"]["command"]
        deadline = time.monotonic() + SECONDS
        while docker("exec", server, *probe, expected=None).returncode:
            assert time.monotonic() < deadline, docker("logs", server).stderr
            time.sleep(0.1)
        refused = docker("exec", f"--env={variable}=", server, *probe, expected=None)
        assert "NOAUTH" in refused.stdout + refused.stderr
        yield


@contextmanager
def _run(image: str, *options: str, command: list[str]) -> Iterator[str]:
    container = docker("run", "--detach", *options, image, *command).stdout.strip()
    try:
        yield container
    finally:
        docker("rm", "--force", container)


@contextmanager
def _service(name: str, image: str, network: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Run the service of the base or of an overlay; yield its container, and the published ports by their names."""
    pod = named(rendered(name), "Deployment", "cartsvc")["spec"]["template"]["spec"]
    own = [f"--env={key}={value}" for key, value in environment(rendered(name), _SECRET).items()]
    (container,) = pod["containers"]
    own += [f"--publish=127.0.0.1::{port['containerPort']}" for port in container["ports"]]
    with _options(pod, network) as options, started(image, *options, *own) as running:
        ports = {}
        for port in container["ports"]:
            published = docker("port", running, str(port["containerPort"])).stdout
            ports[port["name"]] = int(published.splitlines()[0].rpartition(":")[2])
        yield running, ports


@pytest.mark.parametrize("name", [each for each in DEPLOYMENTS if each != "postgresql"])
def test_the_pods_work(name: str, project: Project) -> None:
    """With their rights, volumes and memory they become ready, keep carts, need tokens, serve metrics, run commands."""
    network = f"{project.name}-{name}"
    with ExitStack() as stack:
        docker("network", "create", network)
        stack.callback(docker, "network", "rm", network)
        if name == "base":
            stack.enter_context(_valkey(network))
        container, ports = stack.enter_context(_service(name, project.image, network))
        client = stack.enter_context(httpx.Client(trust_env=False, timeout=SECONDS))
        here, deadline = f"http://127.0.0.1:{ports['http']}", time.monotonic() + SECONDS
        while not _is_ready(client, here):
            assert time.monotonic() < deadline, docker("logs", container).stderr
            time.sleep(0.1)
        token = jwt.encode({"sub": "alice", "exp": int(time.time()) + 60}, _SECRET["jwt-key"], "HS256")
        item, headers = {"product_id": "mug", "quantity": 2}, {"Authorization": f"Bearer {token}"}
        assert client.post(f"{here}/cart/alice", json=item).status_code == 401
        assert client.post(f"{here}/cart/alice", json=item, headers=headers).json()["total_quantity"] == 2
        page = client.get(f"http://127.0.0.1:{ports['metrics']}/metrics").text
        assert "\ncartsvc_store_up 1.0\n" in page
        stats = docker("exec", container, "flask", "--app", "wsgi", "carts", "stats").stdout
        assert '"carts": 1,' in stats
        log = docker("logs", container).stderr
        assert [line for line in log.splitlines() if '"WARNING"' in line] == []


def _is_ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False
