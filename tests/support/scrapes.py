"""Reads the metrics of a server as Prometheus does."""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = 20


class Scrape:
    """The samples of one page: by name, each with its labels and its value."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self._samples = [sample for family in self.families for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with this name and at least these labels."""
        return sum(
            sample.value for sample in self._samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self, name: str) -> set[tuple[str, ...]]:
        """Return the names of labels that the samples with this name have; empty without a sample."""
        return {tuple(sorted(sample.labels)) for sample in self._samples if sample.name == name}

    def values(self, name: str, label: str) -> set[str]:
        """Return the values of a label."""
        return {sample.labels[label] for sample in self._samples if sample.name == name}


def scrape(port: int) -> Scrape:
    """Fetch the page, again if the worker that serves it is killed."""
    deadline = time.monotonic() + _SECONDS
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
        try:
            connection.request("GET", "/metrics")
            response = connection.getresponse()
            assert (response.status, response.headers["Content-Type"]) == (
                200,
                "text/plain; version=0.0.4; charset=utf-8",
            )
            return Scrape(response.read().decode())
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < deadline
        finally:
            connection.close()


def scrape_until(port: int, holds: Callable[[Scrape], bool]) -> Scrape:
    """Fetch pages until one is as expected, for what a worker counts while it starts or ends."""
    deadline = time.monotonic() + _SECONDS
    while not holds(found := scrape(port)):
        assert time.monotonic() < deadline, found.families
        time.sleep(0.1)  # a page takes the server ten milliseconds, and its parser as many
    return found
