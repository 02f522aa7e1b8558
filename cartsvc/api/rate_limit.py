"""How many requests a caller may make: Flask-Limiter, told who is asking, where to count and what to answer.

Imported only when there is a limit. It counts two windows of each caller, the running one and a share of the last one
("sliding-window-counter"): two numbers. Fixed windows let twice as many through around their turn, and a moving one
keeps the time of each request: 20 KB a caller for 1000/hour.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flask_limiter import Limiter
from limits import parse_many
from limits.storage import MemoryStorage, RedisStorage, Storage

from cartsvc.api import authorization, problems
from cartsvc.api.headers import current_request
from cartsvc.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask, Response
    from flask_limiter import RequestLimit

    # Runs a script on the server that all machines share: its text, keys and arguments. Raises StoreError, soon.
    ScriptRunner = Callable[[bytes, list[str], list[Any]], Any]

_RETRY_INTERVAL_S = 1  # seconds without counting once the counter has failed, or each request would wait for it
_CLOCK_RESOLUTION_S = 0.002  # seconds: the server tells milliseconds
_LOG_INTERVAL_S = 60  # seconds between two lines about that in the log
_MAX_CALLERS = 100_000  # of one window in one process, about 15 MB; then it begins anew
_log = logging.getLogger(__name__)


class RateLimiter:
    """What one caller may do, such as "10/second;100/minute": counted by ``run_script``, or else in this process."""

    def __init__(self, limits: str, run_script: ScriptRunner | None) -> None:
        self._limits = limits
        self._runner = run_script

    def init_app(self, app: Flask) -> None:
        """Refuse callers who ask for carts too often. Nobody is refused while the counter is away."""
        logging.getLogger("flask-limiter").setLevel(logging.WARNING)  # below it names each caller who is refused
        where, options = ("process", {}) if self._runner is None else ("shared", {"run_script": self._runner})
        Limiter(
            authorization.rate_limit_key,
            app=app,
            application_limits=[self._limits],
            application_limits_exempt_when=_is_exempt,
            strategy="sliding-window-counter",
            storage_uri=f"cartsvc-{where}://",
            storage_options=cast("dict[str, Any]", options),
            swallow_errors=True,
            on_breach=self._refuse,
        )

    def add_rate_limit(self, document: dict[str, Any]) -> None:
        """Write into the OpenAPI document that every request for a cart can be one too many."""
        for _, operation in problems.operations_on_carts(document):
            problems.add_responses(operation, 429)

    def _refuse(self, limit: RequestLimit) -> Response:
        """The rate that refused is the first of several: Retry-After is for all of them."""
        rates = parse_many(self._limits)
        windows = [limit.limiter.get_window_stats(each, *limit.request_args) for each in rates]
        until = max((window.reset_time for window in windows if not window.remaining), default=0)
        # whole ones: at the very moment it is not yet time
        seconds = int(max(0, until - time.time()) + _CLOCK_RESOLUTION_S) + 1
        problem = problems.PROBLEM_BY_STATUS[429]._replace(headers=(("Retry-After", str(seconds)),))
        return problems.problem_response(problem, f"Rate limit exceeded: {self._limits}.")


def _is_exempt() -> bool:
    """Health checks and pages are not counted, and a preflight is not the caller's doing."""
    request = current_request()
    return request.blueprint != "carts" or request.method == "OPTIONS"


class _LocalStorage(MemoryStorage):
    """Counts in memory, window by window, so that the callers of old ones cost nothing.

    That of limits (5.8) loses count when threads race, and looks through all callers a hundred times a second.
    """

    STORAGE_SCHEME = ["cartsvc-process"]  # noqa: RUF012 - as limits types it

    def __init__(self, uri: str | None = None) -> None:
        super().__init__(uri)
        self._lock = threading.RLock()
        # By their length in seconds: the number of the running window, its counts, and those of the one before.
        self._windows: dict[int, tuple[float, dict[str, int], dict[str, int]]] = {}

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count it if it is not too much."""
        with self._lock:
            previous, share, current, _ = self.get_sliding_window(key, expiry)
            if int(previous * share / expiry) + current + amount > limit:
                return False
            _, counts, _ = self._windows[expiry]
            if len(counts) >= _MAX_CALLERS:
                counts.clear()
            counts[key] = current + amount
            return True

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """The last window's count and how many seconds it still matters; the running one's, and the same of it."""
        number, passed = divmod(time.monotonic(), expiry)
        with self._lock:
            known, current, previous = self._windows.get(expiry, (number, {}, {}))
            if known != number:
                current, previous = {}, current if known == number - 1 else {}
            self._windows[expiry] = number, current, previous
            return previous.get(key, 0), expiry - passed, current.get(key, 0), 2 * expiry - passed


class _ValkeyStorage(RedisStorage):
    """Counts where all machines see it, with the scripts of limits, over the store's kind of connection.

    The connections of limits have no deadline, and those to a cluster need it to be there at the start.
    """

    STORAGE_SCHEME = ["cartsvc-shared"]  # noqa: RUF012 - as above

    def __init__(self, uri: str, *, run_script: ScriptRunner) -> None:
        Storage.__init__(self, uri)
        self.key_prefix = self.PREFIX
        self._runner = run_script
        self._retry_at = 0.0  # when it is asked again; 0 while it answers
        self._logged_at = float("-inf")
        # As limits calls the scripts that redis-py has registered for it.
        self.lua_acquire_sliding_window = cast("Any", partial(self._run_script, self.SCRIPT_ACQUIRE_SLIDING_WINDOW, 1))
        self.lua_sliding_window = cast("Any", partial(self._run_script, self.SCRIPT_SLIDING_WINDOW, None))

    def _run_script(self, script: bytes, otherwise: object, keys: list[str], arguments: list[Any]) -> Any:  # noqa: ANN401 - what the script returns
        was_unavailable = self._is_away()
        if was_unavailable:
            now = time.monotonic()
            if now < self._retry_at:
                return otherwise
            self._retry_at = now + _RETRY_INTERVAL_S  # this request tries it; the others do not wait as well
        try:
            result = self._runner(script, keys, arguments)
        except StoreError as error:
            self._record_failure(error)
            return otherwise
        if was_unavailable:
            self._retry_at = 0.0
        return result

    def _is_away(self) -> bool:
        return self._retry_at > 0

    def _record_failure(self, error: StoreError) -> None:
        now = time.monotonic()
        self._retry_at = now + _RETRY_INTERVAL_S
        if now - self._logged_at >= _LOG_INTERVAL_S:
            self._logged_at = now
            reason = type(error.__cause__ or error).__name__
            _log.warning("CARTSVC_RATE_LIMIT: the counter is away, and requests are let through: %s", reason)
