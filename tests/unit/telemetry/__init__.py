"""Tests of cartsvc.telemetry."""
