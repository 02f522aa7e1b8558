"""The table in PostgreSQL, the statements that the store sends, and the values of their parameters."""

from __future__ import annotations

import struct

# The user_id is binary, because the order of texts changes with the system, and names of any bytes must be found.
# Updates find room in their page and change no index, unless the minute of expires_at changes, so they leave no dead
# index entries behind (HOT).
SETUP = """\
CREATE TABLE IF NOT EXISTS cartsvc_records (
    user_id bytea PRIMARY KEY,
    tag text NOT NULL,
    expires_at timestamptz NOT NULL,
    data bytea NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS cartsvc_records_expires_at ON cartsvc_records (expires_at);
"""

SELECT = b"SELECT data FROM cartsvc_records WHERE user_id = $1"
INSERT = (
    b"INSERT INTO cartsvc_records (user_id, tag, expires_at, data) VALUES ($1, $2, $3, $4) "
    b"ON CONFLICT (user_id) DO NOTHING"
)
UPDATE = b"UPDATE cartsvc_records SET tag = $2, expires_at = $3, data = $4 WHERE user_id = $1 AND tag = $5"
REMOVE = b"DELETE FROM cartsvc_records WHERE user_id = $1 AND tag = $2"
DELETE = b"DELETE FROM cartsvc_records WHERE user_id = $1 RETURNING data"
PAGE = b"SELECT user_id, data FROM cartsvc_records WHERE user_id > $1 ORDER BY user_id LIMIT 64"
# By the server's clock and a day late, so that a machine whose clock is fast deletes no record that is valid elsewhere.
# It waits neither for the disk nor for a standby, because a deletion that is lost is made again.
CLEAR = (
    b"DELETE FROM cartsvc_records WHERE set_config('synchronous_commit', 'off', true) = 'off' "
    b"AND user_id IN (SELECT user_id FROM cartsvc_records "
    b"WHERE expires_at < now() - interval '1 day' LIMIT 64 FOR UPDATE SKIP LOCKED)"
)
# Rows whose last minute is over by both clocks.
PURGE = (
    b"DELETE FROM cartsvc_records WHERE user_id IN (SELECT user_id FROM cartsvc_records "
    b"WHERE expires_at <= least(now(), $1) LIMIT 1000 FOR UPDATE SKIP LOCKED)"
)
# Writes only a log record, for which its commit waits as for any write. Without a standby there is nothing to wait for.
CONFIRM = (
    b"SELECT CASE WHEN current_setting('synchronous_standby_names', true) <> '' "
    b"THEN pg_logical_emit_message(true, 'cartsvc', '') END"
)
PROBE = b"WITH probe AS (DELETE FROM cartsvc_records WHERE user_id = '/') " + CONFIRM  # no user_id has a slash
SETTINGS = (
    b"SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'statement_timeout', "
    b"'synchronous_commit', 'synchronous_standby_names')"
)

_MINUTE_MS = 60_000
_MAX_MS = 253_402_300_800_000  # the year 10000; from there on, and before 1970, the exact time does not matter
_EPOCH_MS = 946_684_800_000  # the year 2000, where a timestamp of the server is 0


def timestamp(milliseconds: int) -> bytes:
    """Return a time since 1970 as a timestamp of the server, in its binary form."""
    return struct.pack("!q", (min(max(milliseconds, 0), _MAX_MS) - _EPOCH_MS) * 1000)


def end_of_minute(milliseconds: int) -> bytes:
    """Return the end of the minute of this time as a timestamp."""
    return timestamp(-(-milliseconds // _MINUTE_MS) * _MINUTE_MS)


def advice(settings: dict[str, str]) -> list[str]:
    """Return warnings about the settings of a server that may lose carts."""
    warnings = []
    if "off" in {settings.get("fsync"), settings.get("full_page_writes")}:
        warnings.append(
            "the PostgreSQL server may lose all carts in a crash of its machine: turn fsync and full_page_writes on"
        )
    if settings.get("synchronous_commit") == "off":
        warnings.append(
            "the PostgreSQL server may lose the last writes in a crash: its synchronous_commit is off, not on"
        )
    if not settings.get("synchronous_standby_names"):
        warnings.append(
            "the PostgreSQL server has no synchronous standby: a failover loses the last writes, unless "
            "synchronous_standby_names is set"
        )
    elif settings.get("synchronous_commit") == "local":
        warnings.append("a failover loses the last writes: the PostgreSQL server's synchronous_commit is local, not on")
    if settings.get("statement_timeout", "0") != "0":
        warnings.append(
            "the PostgreSQL server may commit a write without its standby: statement_timeout must be 0, and a pooler "
            "has not passed this setting on"
        )
    return warnings
