"""What all tests share: how long hypothesis searches (--hypothesis-profile=ci or soak for longer)."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# No deadlines: a busy machine is no fault of the code.
settings.register_profile("fast", max_examples=60, stateful_step_count=30, deadline=None)
settings.register_profile("ci", max_examples=200, stateful_step_count=50, deadline=None)
settings.register_profile("soak", max_examples=1500, stateful_step_count=50, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

pytest.register_assert_rewrite("store_contract")  # its asserts are to tell as much as those of test files
