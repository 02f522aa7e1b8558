"""The compose project that the container tests share: its image is built once, and everything it made is removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.compose import Project

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx


@pytest.fixture(scope="session")
def project() -> Iterator[Project]:
    """The project, its image built."""
    made = Project()
    try:
        made.build()
        yield made
    finally:
        made.remove()


@pytest.fixture
def service(project: Project) -> Project:
    """The project, its service healthy: started when the test before stopped it."""
    project.up()
    return project


@pytest.fixture
def client(service: Project) -> Iterator[httpx.Client]:
    """A client of the published port; it asks no proxy."""
    with service.client() as opened:
        yield opened
