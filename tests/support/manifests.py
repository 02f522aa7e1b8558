"""The manifests of deploy/kubernetes, as files and as kustomize renders them."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
KUBECTL = shutil.which("kubectl")

# Without kubectl the overlays cannot be rendered; then they are checked as files.
DEPLOYMENTS = ["base", "postgresql", "lmdb", "memory"] if KUBECTL else ["base"]

Object = dict[str, Any]


def documents(path: Path) -> list[Object]:
    """Return the YAML documents of a file."""
    return list(yaml.safe_load_all(path.read_text()))


def directory(name: str) -> Path:
    """Return the directory of the base or of an overlay."""
    return KUBERNETES / (name if name == "base" else f"overlays/{name}")


@cache
def rendered(name: str) -> list[Object]:
    """Return the objects of the base or of an overlay as kustomize renders them; without kubectl, those of the base."""
    return _plain_base() if KUBECTL is None else render(directory(name))


def render(kustomization: Path) -> list[Object]:
    """Return the objects that kubectl renders from this directory."""
    assert KUBECTL is not None
    command = [KUBECTL, "kustomize", str(kustomization)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return list(yaml.safe_load_all(ended.stdout))


def _plain_base() -> list[Object]:
    """Return the objects in the files of the base, and the ConfigMap that kustomize would generate."""
    (kustomization,) = documents(KUBERNETES / "base" / "kustomization.yaml")
    objects = [each for file in kustomization["resources"] for each in documents(KUBERNETES / "base" / file)]
    for generator in kustomization["configMapGenerator"]:
        data = dict(literal.split("=", 1) for literal in generator["literals"])
        metadata = {"name": generator["name"]}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    return objects


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """Return the objects of these kinds."""
    return [each for each in objects if each["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object:
    """Return the only object of this kind with this name."""
    (found,) = [each for each in of_kind(objects, kind) if each["metadata"]["name"] == name]
    return found


def environment(objects: list[Object], secret: dict[str, str]) -> dict[str, str]:
    """Return the environment of the service's container, where the Secret has these keys."""
    (container,) = named(objects, "Deployment", "cartsvc")["spec"]["template"]["spec"]["containers"]
    (settings,) = of_kind(objects, "ConfigMap")
    assert [source["configMapRef"]["name"] for source in container["envFrom"]] == [settings["metadata"]["name"]]
    own = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    references = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in container["env"] if "valueFrom" in each}
    assert {reference["name"] for reference in references.values()} == {"cartsvc"}
    return settings["data"] | own | {name: secret[reference["key"]] for name, reference in references.items()}


def size(quantity: str) -> int:
    """Return a quantity of bytes, such as "64Mi"."""
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    return int(quantity[:-2]) * units[quantity[-2:]]
