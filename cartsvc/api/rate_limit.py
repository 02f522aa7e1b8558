"""Limits how many requests a caller may make for carts: the library limits counts, this module decides what and where.

The module is imported only when a limit is set. It counts two windows of each caller, the running one and a share of
the previous one ("sliding window counter"), so it stores two numbers. Fixed windows allow twice the limit around their
boundary, and a moving window stores the time of each request: 20 KB a caller for 1000/hour.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from limits import parse_many
from limits.storage import MemoryStorage, RedisStorage, Storage
from limits.strategies import SlidingWindowCounterRateLimiter

from cartsvc.api import authorization, problems
from cartsvc.api.flask_app import current_request
from cartsvc.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask, Response

    # Runs a script on the server that all machines share: its text, keys and arguments. Raises StoreError, soon.
    ScriptRunner = Callable[[bytes, list[str], list[Any]], Any]

_RETRY_INTERVAL_S = 1  # without counting once the counter has failed, because each request would wait for it
_CLOCK_RESOLUTION_S = 0.002  # the server's times are in milliseconds
_LOG_INTERVAL_S = 60  # between two log lines about an unavailable counter
_MAX_CALLERS = 100_000  # of one window in one process, about 15 MB; then its counts are cleared
_log = logging.getLogger(__name__)


class RateLimiter:
    """The rates of one caller, such as "10/second;100/minute", counted by ``run_script``, or else in this process."""

    def __init__(self, limits: str, run_script: ScriptRunner | None) -> None:
        self._limits = limits
        self._rates = sorted(parse_many(limits))  # the shortest first
        self.storage = _LocalStorage() if run_script is None else _ValkeyStorage(run_script)
        self._limiter = SlidingWindowCounterRateLimiter(self.storage)

    def init_app(self, app: Flask) -> None:
        """Reject requests for carts above the rates. No request is rejected while the counter is unavailable."""
        app.extensions["cartsvc.rate_limiter"] = self
        app.before_request(self._check_request)

    def _check_request(self) -> Response | None:
        """Return the response to a request above the rates, before its token, its headers or its body are checked."""
        request = current_request()
        if request.blueprint != "carts" or request.method == "OPTIONS":  # a browser sends preflights on its own
            return None
        caller = authorization.rate_limit_key()
        return None if self._hit(caller) else self._rejection(caller)

    def _hit(self, caller: str) -> bool:
        """Count a request of this caller. Return False when it exceeds a rate; longer rates do not count it then."""
        try:
            return all(self._limiter.hit(rate, caller) for rate in self._rates)
        except Exception:  # noqa: BLE001 - a fault of a counter makes no cart unavailable
            _log.exception("CARTSVC_RATE_LIMIT: counting failed, and the request was let through")
            return True

    def _rejection(self, caller: str) -> Response:
        """Return a 429 whose Retry-After satisfies all rates, not only the one that was exceeded first."""
        windows = [self._limiter.get_window_stats(rate, caller) for rate in self._rates]
        until = max((window.reset_time for window in windows if not window.remaining), default=0)
        # Rounded up to the next whole second, because at the reset time itself the request would still be rejected.
        seconds = int(max(0, until - time.time()) + _CLOCK_RESOLUTION_S) + 1
        problem = problems.PROBLEM_BY_STATUS[429]._replace(headers=(("Retry-After", str(seconds)),))
        return problems.problem_response(problem, f"Rate limit exceeded: {self._limits}.")


class _LocalStorage(MemoryStorage):
    """Counts in memory, window by window, so the callers of past windows take no memory.

    The counter of limits 5.8 loses counts when threads race, and walks through all callers a hundred times a second.
    """

    def __init__(self) -> None:
        Storage.__init__(self)  # not MemoryStorage's, which starts a timer
        self._lock = threading.RLock()
        # By their length in seconds: the number of the running window, its counts, and those of the previous one.
        self._windows: dict[int, tuple[float, dict[str, int], dict[str, int]]] = {}

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a request unless it exceeds the limit; return whether it was counted."""
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
        """Return the count and the remaining seconds of the previous window, and the same of the running one."""
        number, passed = divmod(time.monotonic(), expiry)
        with self._lock:
            known, current, previous = self._windows.get(expiry, (number, {}, {}))
            if known != number:
                current, previous = {}, current if known == number - 1 else {}
            self._windows[expiry] = number, current, previous
            return previous.get(key, 0), expiry - passed, current.get(key, 0), 2 * expiry - passed


class _ValkeyStorage(RedisStorage):
    """Counts on a server that all machines share, with the scripts of limits, over the store's kind of connection.

    The connections of limits have no deadline, and those to a cluster fail at startup while the cluster is unavailable.
    """

    def __init__(self, run_script: ScriptRunner) -> None:
        Storage.__init__(self)  # not RedisStorage's, which connects
        self.key_prefix = self.PREFIX
        self._runner = run_script
        self._retry_at = 0.0  # when an unavailable server is tried again; 0 while it is available
        self._logged_at = float("-inf")
        # The names are those of limits for the scripts that redis-py registers for it.
        self.lua_acquire_sliding_window = cast("Any", partial(self._run_script, self.SCRIPT_ACQUIRE_SLIDING_WINDOW, 1))
        self.lua_sliding_window = cast("Any", partial(self._run_script, self.SCRIPT_SLIDING_WINDOW, None))

    def _run_script(self, script: bytes, fallback: object, keys: list[str], arguments: list[Any]) -> Any:  # noqa: ANN401 - what the script returns
        """Return the script's result, or ``fallback`` while the server is unavailable."""
        was_unavailable = self._retry_at > 0
        if was_unavailable:
            now = time.monotonic()
            if now < self._retry_at:
                return fallback
            self._retry_at = now + _RETRY_INTERVAL_S  # so one request tries the server, and the others do not wait
        try:
            result = self._runner(script, keys, arguments)
        except StoreError as error:
            self._record_failure(error)
            return fallback
        if was_unavailable:
            self._retry_at = 0.0
        return result

    def _record_failure(self, error: StoreError) -> None:
        now = time.monotonic()
        self._retry_at = now + _RETRY_INTERVAL_S
        if now - self._logged_at >= _LOG_INTERVAL_S:
            self._logged_at = now
            reason = type(error.__cause__ or error).__name__
            _log.warning("CARTSVC_RATE_LIMIT: the counter is unavailable, and requests are let through: %s", reason)
