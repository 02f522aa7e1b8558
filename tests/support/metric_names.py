"""The names and labels of all metrics, which tests/system/test_metrics.py compares with those of a real server."""

from __future__ import annotations

COUNT = "http_server_request_duration_seconds_count"
# Names and labels are a contract: dashboards and alerts are written for them.
NAMES = {
    COUNT: ("http_request_method", "http_response_status_code", "http_route"),
    "http_server_request_duration_seconds_bucket": (
        *("http_request_method", "http_response_status_code", "http_route", "le"),
    ),
    "http_server_active_requests": (),
    "cartsvc_problems_total": ("type",),
    "db_client_operation_duration_seconds_count": ("db_operation_name", "db_system_name", "error_type"),
    "cartsvc_store_conflicts_total": (),
    "cartsvc_idempotent_replays_total": (),
    "cartsvc_merges_total": ("result",),
    "cartsvc_rate_limited_total": (),
    "cartsvc_store_up": (),
    "cartsvc_store_full": (),
    "cartsvc_store_used_bytes": (),
    "cartsvc_store_limit_bytes": (),
    "cartsvc_store_records": (),
    "cartsvc_worker_starts_total": ("reason",),
    "cartsvc_build_info": ("store", "version"),
}
