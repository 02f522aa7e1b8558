"""gunicorn's logger for cartsvc: one handler and one format for gunicorn, this service and Python's warnings."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar

from gunicorn import glogging

if TYPE_CHECKING:
    from gunicorn.config import Config

_OTHERS = ("cartsvc", "opentelemetry", "py.warnings")  # loggers that write where gunicorn's does


class Logger(glogging.Logger):
    """Write all lines in the format of ``formatter``, and no traceback for a client that reads its response too slowly.

    A logging configuration on gunicorn's command line replaces this format.
    """

    formatter: ClassVar[logging.Formatter]

    def setup(self, cfg: Config) -> None:
        """Set the loggers up; again at each reload."""
        super().setup(cfg)
        self.error_log.addFilter(_not_client_timeout)
        if cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json:
            return
        logging.captureWarnings(capture=True)
        for handler in self.error_log.handlers:
            handler.setFormatter(self.formatter)
        for name in _OTHERS:
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = list(self.error_log.handlers), False


def logger_with(formatter: logging.Formatter) -> type[Logger]:
    """Return the class of a logger with this formatter."""
    return type("Logger", (Logger,), {"formatter": formatter})


def _not_client_timeout(entry: logging.LogRecord) -> bool:
    return entry.exc_info is None or not isinstance(entry.exc_info[1], TimeoutError)
