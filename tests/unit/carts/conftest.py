"""The fixture of the tests on merging."""

from __future__ import annotations

import pytest

from tests.support.merge_scenario import MergeScenario, make_scenario


@pytest.fixture
def scenario() -> MergeScenario:
    """Return a source and a target of three items each."""
    return make_scenario()
