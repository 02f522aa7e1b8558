"""The manifests of deploy/kubernetes: valid, with few rights, and consistent with settings, image and gunicorn."""

from __future__ import annotations

import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from cartsvc.errors import SettingsError
from cartsvc.server.startup import memory_warning
from cartsvc.settings import Settings
from cartsvc.version import __version__
from tests.support.manifests import (
    DEPLOYMENTS,
    KUBECTL,
    KUBERNETES,
    directory,
    documents,
    environment,
    named,
    of_kind,
    render,
    rendered,
    size,
)

_ROOT = Path(__file__).parents[2]
_FILES = sorted(KUBERNETES.glob("**/*.yaml"))
_VERSIONS = ("1.27", kubernetes_validate.latest_version())  # the oldest that the base names, and the newest
_KEY = "0123456789abcdef" * 2
_KEYS = {"jwt-key": f"jwt-{_KEY}", "guest-key": f"guest-{_KEY}"}
_SECRETS = {  # with the URL of the store, unless the manifests have it
    "base": {**_KEYS, "store-url": "valkey://:secret@cartsvc-valkey:6379/0"},
    "postgresql": {**_KEYS, "store-url": "postgresql://carts:secret@database/shop"},
    "lmdb": _KEYS,
    "memory": _KEYS,
}
_STORES = {"base": "valkey", "postgresql": "postgresql", "lmdb": "lmdb", "memory": "memory"}
_KUSTOMIZATION = {"apiVersion", "kind", "resources", "components", "configMapGenerator", "patches"}
_OF_ONE_POD = {"lmdb", "memory"}
_END_S = 10  # to start and end processes

_each = pytest.mark.parametrize("name", DEPLOYMENTS)
_each_file = pytest.mark.parametrize("file", _FILES, ids=lambda file: file.relative_to(KUBERNETES).as_posix())


def _pods(name: str) -> dict[str, Any]:
    """Return the specifications of pods, by the name of their object."""
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in of_kind(rendered(name), "Deployment", "StatefulSet")
    }


def _service(name: str) -> tuple[Any, Any]:
    """Return the specification of the service's pod, and its container."""
    pod = _pods(name)["cartsvc"]
    (container,) = pod["containers"]
    return pod, container


def _settings(name: str) -> Settings:
    return Settings.from_env(environment(rendered(name), _SECRETS[name]))


@cache
def _validate(text: str) -> None:
    """Raise an error unless an object, as JSON, has only members that Kubernetes knows. Overlays share many objects."""
    for version in _VERSIONS:
        kubernetes_validate.validate(json.loads(text), version, strict=True)


# ---- the files ----


@_each_file
def test_every_file_is_valid(file: Path) -> None:
    """Every object, as it is in its file, has only members that Kubernetes knows."""
    for each in documents(file):
        if each["apiVersion"].startswith("kustomize.config.k8s.io/"):
            assert set(each) <= _KUSTOMIZATION
        else:
            _validate(json.dumps(each, sort_keys=True))


def test_every_setting_that_a_file_names_exists(known_settings: list[str]) -> None:
    """In comments too, of all files of deploy."""
    texts = [file.read_text() for file in (_ROOT / "deploy").glob("**/*.*")]
    named = {name for text in texts for name in re.findall(r"\bCARTSVC_\w+", text)}
    assert len(named) >= 8
    assert named - {*known_settings} == set()


@pytest.mark.parametrize("overlay", ["postgresql", "lmdb", "memory"])
def test_every_overlay_changes_what_exists(overlay: str) -> None:
    """Resources and components are files of this directory, and each patch names an object of the base."""
    known = {(each["kind"], each["metadata"]["name"]) for each in rendered("base") if each["kind"] != "ConfigMap"}
    (kustomization,) = documents(directory(overlay) / "kustomization.yaml")
    assert [each for each in kustomization["resources"] if not (directory(overlay) / each).exists()] == []
    changed = set()
    for folder in [directory(overlay), *(directory(overlay) / each for each in kustomization["components"])]:
        (part,) = documents(folder / "kustomization.yaml")
        for patch in part["patches"]:
            kind, name = (
                re.findall(rf"^\s*{word}: (\S+)$", patch["patch"], re.MULTILINE) for word in ("kind", "  name")
            )
            target = patch.get("target")
            changed.add((target["kind"], target["name"]) if target else (kind[0], name[0]))
    assert changed - known == set()
    assert len(changed) >= 4


@_each
def test_what_is_rendered_is_valid(name: str) -> None:
    """The objects of the base and of each overlay, for the oldest and the newest version."""
    for each in rendered(name):
        _validate(json.dumps(each, sort_keys=True))


@_each
def test_the_objects_are_those_that_the_store_needs(name: str) -> None:
    """Valkey is in the base only; one pod on LMDB or memory needs no autoscaler, and LMDB a volume."""
    kinds = {(each["kind"], each["metadata"]["name"]) for each in of_kind(rendered(name), *_OPTIONAL)}
    server = {(kind, "cartsvc-valkey") for kind in ("StatefulSet", "Service", "NetworkPolicy")}
    own = {("Service", "cart-service"), ("NetworkPolicy", "cartsvc")}
    several = {("HorizontalPodAutoscaler", "cartsvc"), ("PodDisruptionBudget", "cartsvc")}
    expected = {
        "base": own | several | server,
        "postgresql": own | several,
        "lmdb": own | {("PersistentVolumeClaim", "cartsvc")},
        "memory": own,
    }
    assert kinds == expected[name]


_OPTIONAL = (
    *("StatefulSet", "Service", "NetworkPolicy"),
    *("HorizontalPodAutoscaler", "PodDisruptionBudget", "PersistentVolumeClaim"),
)


# ---- rights ----


@_each
def test_pods_have_no_rights(name: str) -> None:
    """No root, no privilege, no capability, no token; the root file system is read-only."""
    for pod in _pods(name).values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & {*pod}
        context = pod["securityContext"]
        assert (context["runAsNonRoot"], context["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
        assert min(context[user] for user in ("runAsUser", "runAsGroup", "fsGroup")) > 0
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        assert [volume for volume in pod.get("volumes", []) if "hostPath" in volume] == []


@_each
def test_pods_have_limits_and_probes(name: str) -> None:
    """Requests of CPU and memory, a limit of memory, and the three probes."""
    for pod in _pods(name).values():
        for container in pod["containers"]:
            resources = container["resources"]
            assert set(resources["requests"]) == {"cpu", "memory"}
            assert size(resources["limits"]["memory"]) >= size(resources["requests"]["memory"])
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= {*container}


@_each
def test_secrets_are_only_referred_to(name: str) -> None:
    """No Secret is part of the manifests, and what holds one comes from the Secret."""
    assert of_kind(rendered(name), "Secret") == []
    for pod in _pods(name).values():
        for container in pod["containers"]:
            literal = [each["name"] for each in container["env"] if "value" in each]
            assert [each for each in literal if re.search("KEY|PASS|AUTH|TOKEN", each)] == []
    (settings,) = of_kind(rendered(name), "ConfigMap")
    assert [each for each in settings["data"] if re.search("KEY$|PASS|TOKEN|STORE_URL", each)] == []


# ---- consistency ----


@_each
def test_settings_exist_and_are_accepted(name: str, known_settings: list[str]) -> None:
    """The service starts with the settings of the manifests and a Secret, without a warning, and not without keys."""
    variables = environment(rendered(name), _SECRETS[name])
    assert set(variables) - {*known_settings} == set()
    settings = Settings.from_env(variables)
    assert settings.warnings == ()
    assert settings.auth is not None
    without_keys = {key: value for key, value in variables.items() if "_JWT_" not in key}
    with pytest.raises(SettingsError):
        Settings.from_env(without_keys)
    assert type(settings.store).__name__.lower().startswith(_STORES[name])


@_each
def test_images_are_pinned(name: str) -> None:
    """The service has its own version, Valkey that of the compose file."""
    images = {each: [container["image"] for container in pod["containers"]] for each, pod in _pods(name).items()}
    assert images.pop("cartsvc") == [f"cartsvc:{__version__}"]
    (valkey,) = {*re.findall(r"image: (valkey/\S+)", (_ROOT / "docker-compose.yml").read_text())}
    assert images == ({"cartsvc-valkey": [valkey]} if name == "base" else {})


@_each
def test_the_user_is_that_of_the_image(name: str) -> None:
    """The volume of LMDB and the files of the image belong to it."""
    (user,) = re.findall(r"^USER (\d+):\1$", (_ROOT / "Dockerfile").read_text(), re.MULTILINE)
    context = _service(name)[0]["securityContext"]
    assert {context[each] for each in ("runAsUser", "runAsGroup", "fsGroup")} == {int(user)}


@_each
def test_ports_are_those_of_the_settings(name: str) -> None:
    """Container, Service, annotations of Prometheus and policy name the same two ports."""
    settings = _settings(name)
    _, container = _service(name)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.port, "metrics": settings.metrics_port}
    service = named(rendered(name), "Service", "cart-service")["spec"]
    assert [(port["port"], port["targetPort"]) for port in service["ports"]] == [(settings.port, "http")]
    notes = named(rendered(name), "Deployment", "cartsvc")["spec"]["template"]["metadata"]["annotations"]
    assert notes["prometheus.io/port"] == str(settings.metrics_port)
    policy = named(rendered(name), "NetworkPolicy", "cartsvc")["spec"]
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["http", "metrics"]


@_each
def test_selectors_select_the_pods(name: str) -> None:
    """Each selector has the labels of the pods that it means."""
    objects = rendered(name)
    labels = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
        for each in of_kind(objects, "Deployment", "StatefulSet")
    }
    assert len({*map(str, labels.values())}) == len(labels)
    for each in of_kind(objects, "Deployment", "StatefulSet", "PodDisruptionBudget"):
        assert each["spec"]["selector"]["matchLabels"] == labels[each["metadata"]["name"]]
    for each in of_kind(objects, "Service"):
        assert each["spec"]["selector"] == labels[each["metadata"]["name"].replace("cart-service", "cartsvc")]
    for each in of_kind(objects, "NetworkPolicy"):
        assert each["spec"]["podSelector"]["matchLabels"] == labels[each["metadata"]["name"]]
    for constraint in _service(name)[0]["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"] == labels["cartsvc"]


@_each
def test_probes_ask_what_they_are_for(name: str) -> None:
    """Liveness does not depend on the store; readiness does, and waits longer than the store may take."""
    _, container = _service(name)
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    assert container["readinessProbe"]["timeoutSeconds"] > _settings(name).store_timeout


@_each
def test_a_stop_has_time_to_finish(name: str) -> None:
    """Clients move to another pod, if there is one, before this one stops; it is killed only when that must be over."""
    (graceful,) = re.findall(r"^graceful_timeout = (\d+)$", (_ROOT / "gunicorn.conf.py").read_text(), re.MULTILINE)
    settings = _settings(name)
    if name in _OF_ONE_POD:
        assert settings.drain == 0
    else:
        assert settings.drain > settings.keep_alive
    assert _service(name)[0]["terminationGracePeriodSeconds"] >= settings.drain + int(graceful) + _END_S


@_each
def test_memory_suffices(name: str) -> None:
    """The memory file system has room for what the service writes, and the container for that and the processes."""
    settings = _settings(name)
    pod, container = _service(name)
    (volume,) = [each for each in pod["volumes"] if each["name"] == "shm"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]  # noqa: S108 - a mount
    assert volume["emptyDir"]["medium"] == "Memory"
    shm = size(volume["emptyDir"]["sizeLimit"])
    carts = settings.memory_limit if name == "memory" else 0
    assert shm >= carts + 16 * 2**20
    limit = size(container["resources"]["limits"]["memory"])
    assert memory_warning(limit, memory=shm, workers=settings.worker_count) is None


@_each
def test_a_store_of_one_pod_has_one_pod(name: str) -> None:
    """A second pod would have other carts, or none, so the next one starts when the last one has ended."""
    spec = named(rendered(name), "Deployment", "cartsvc")["spec"]
    if name in _OF_ONE_POD:
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    else:
        assert "replicas" not in spec
        assert spec["strategy"] == {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
        assert named(rendered(name), "HorizontalPodAutoscaler", "cartsvc")["spec"]["minReplicas"] >= 2


@_each
def test_volumes_are_those_of_the_store(name: str) -> None:
    """LMDB is on the claim, which one pod alone may use; nothing else is written but /dev/shm."""
    pod, container = _service(name)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    if name == "lmdb":
        (claim,) = of_kind(rendered(name), "PersistentVolumeClaim")
        assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
        assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
        url = environment(rendered(name), _SECRETS[name])["CARTSVC_STORE_URL"]
        assert url.startswith(f"lmdb://{mounts['carts']}/")
    else:
        assert set(mounts) == {"shm"}


@_each
def test_the_policy_lets_the_service_reach_its_store(name: str) -> None:
    """Names, and the store's port; nothing else."""
    policy = named(rendered(name), "NetworkPolicy", "cartsvc")["spec"]
    ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert ports - {53} == {"base": {6379}, "postgresql": {5432}, "lmdb": set(), "memory": set()}[name]


def test_the_overlay_of_the_guide_changes_the_base(tmp_path: Path) -> None:
    """The example of docs/operations.md has members of a kustomization; kubectl renders its image and its setting."""
    page = (_ROOT / "docs" / "operations.md").read_text()
    (example,) = re.findall(r"^```yaml\n(apiVersion: kustomize.*?)^```$", page, re.MULTILINE | re.DOTALL)
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    directory = tmp_path / "kubernetes" / "shop"
    directory.mkdir()
    (directory / "kustomization.yaml").write_text(example)
    (kustomization,) = documents(directory / "kustomization.yaml")
    assert set(kustomization) - {"images"} <= _KUSTOMIZATION
    assert [each for each in kustomization["resources"] if not (directory / each).exists()] == []
    if KUBECTL is None:
        return
    objects = render(directory)
    (container,) = named(objects, "Deployment", "cartsvc")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example/shop/cartsvc:{__version__}"
    changed = environment(objects, _SECRETS["base"]).items() - environment(rendered("base"), _SECRETS["base"]).items()
    assert changed == {("CARTSVC_CORS_ORIGINS", "https://shop.example")}


def test_what_these_tests_guard_is_found() -> None:
    """The files are those of the base, the components and the overlays."""
    assert len(_FILES) >= 12
    assert {file.parent.name for file in _FILES} == {
        *("base", "without-valkey", "one-replica", "postgresql", "lmdb", "memory"),
    }
