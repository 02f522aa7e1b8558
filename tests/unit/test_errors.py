"""Holds errors.py to the tree that its docstring draws."""

from __future__ import annotations

import inspect
import re

from cartsvc import errors


def _drawn() -> dict[str, str]:
    """Each error's name and that of the error it is drawn under."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r" {4}([│├└─ ]*)([A-Z]\w+)", line):
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            parents[match[2]] = above[depth - 1] if depth else "Exception"
    return parents


def test_the_tree_is_the_one_drawn() -> None:
    """Whoever catches an error by the drawing catches what it says."""
    actual = {}
    for name, each in vars(errors).items():
        if inspect.isclass(each) and issubclass(each, Exception) and not name.startswith("_"):
            actual[name] = next(base.__name__ for base in each.__mro__[1:] if not base.__name__.startswith("_"))
    assert actual == _drawn()


def test_an_error_names_all_its_faults() -> None:
    """The text of an error has every fault's place and reason."""
    faults = [errors.Fault("/quantity", "Too many."), errors.Fault("", "Too large.")]
    error = errors.InvalidRequest(iter(faults))
    assert error.faults == tuple(faults)
    assert str(error) == "/quantity: Too many.; : Too large."


def test_wrong_settings_are_listed_line_by_line() -> None:
    """One message has every fault of the environment."""
    error = errors.SettingsError(["PORT='x': a", "B='y': b"])
    assert error.faults == ("PORT='x': a", "B='y': b")
    assert str(error) == "cartsvc cannot start:\n  - PORT='x': a\n  - B='y': b"


def test_a_store_that_fails_says_what_became_of_the_request() -> None:
    """Either nothing was changed, or the outcome is in doubt and the message explains how to find out."""
    away, unknown, full = (str(error()) for error in (errors.StoreError, errors.OutcomeUnknown, errors.StoreFull))
    assert "Nothing was changed" in away
    assert "may or may not have been applied" in unknown
    assert "Idempotency-Key" in unknown
    assert "full" in full
    assert len({away, unknown, full}) == 3
