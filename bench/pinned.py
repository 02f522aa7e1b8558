"""gunicorn.conf.py, with the worker on one core, so that its threads do not compete for the GIL across cores."""

from __future__ import annotations

import os
import runpy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gunicorn.workers.base import Worker

globals().update(runpy.run_path("gunicorn.conf.py"))


def post_worker_init(worker: Worker) -> None:  # noqa: ARG001 - gunicorn's signature
    """Keep the worker on the first core it may use."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
