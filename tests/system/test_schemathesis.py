"""schemathesis against the real server: whatever /openapi.json lets send, and what it does not, is answered as it says.

All its checks are on: examples, boundary values (in the longer profiles), random requests, and chains of them.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import jwt
import pytest
from hypothesis import settings

from tests.support.servers import serve

if TYPE_CHECKING:
    from tests.support.servers import Server

_HOOKS = Path(__file__).parents[1] / "support" / "schemathesis_hooks.py"
_EXAMPLES = settings.default.max_examples  # of single requests to each operation a tenth, of chains of them a fourth
_CONFIG = f"""
hooks = "{_HOOKS}"
[output.sanitization]
enabled = false
[generation]
max-examples = {_EXAMPLES // 10}
database = "none"
[phases.stateful.generation]
max-examples = {_EXAMPLES // 4}
"""
_SECONDS = 3600
_ALL_PHASES = ("Examples", "Coverage", "Fuzzing", "Stateful")
_SHORT_PHASES = ("Examples", "Fuzzing", "Stateful")
# The coverage phase takes minutes, so the fast profile has none of it. With tokens only a soak repeats all phases.
_PHASES = _ALL_PHASES if settings.get_profile("ci").max_examples <= _EXAMPLES else _SHORT_PHASES
_PHASES_WITH_TOKENS = _ALL_PHASES if settings.get_profile("soak").max_examples <= _EXAMPLES else ("Fuzzing",)
_KEY = "a-secret-of-the-shop's-issuer-0123456789"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Of hypothesis, when it was given one: --hypothesis-seed repeats a run; else another one each time."""
    given = request.config.getoption("--hypothesis-seed")
    return random.randrange(2**32) if given in {None, "random"} else int(given)  # noqa: S311 - not for secrets


def schemathesis(server: Server, directory: Path, seed: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it over the document of this server."""
    config = directory / "schemathesis.toml"
    config.write_text(_CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", "--no-color"]
    return subprocess.run(
        [*command, "--checks=all", f"--seed={seed}", *arguments, f"{server.url}/openapi.json"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )


def _selected(phases: tuple[str, ...]) -> str:
    return f"--phases={','.join(phases).lower()}"


def check_run(server: Server, run: subprocess.CompletedProcess[str], seed: int, phases: tuple[str, ...]) -> None:
    """Check that the phases ran over all operations and found nothing, and that the server logged no error."""
    assert run.returncode == 0, f"make soak SEED={seed} repeats this:\n{run.stdout}{run.stderr}"
    for phase in phases:
        assert f"✅ {phase}\n" in run.stdout, run.stdout
    assert "Tested: 14\n" in run.stdout, run.stdout
    assert not re.search(r"Traceback|\[(ERROR|CRITICAL)\]", server.log())


def test_every_answer_is_as_documented(tmp_path: Path, seed: int) -> None:
    """No 5xx; what is right is accepted, what is wrong is refused, and every answer has a documented shape."""
    with serve() as server:
        check_run(server, schemathesis(server, tmp_path, seed, _selected(_PHASES)), seed, _PHASES)


def test_every_answer_to_known_callers_is_as_documented(tmp_path: Path, seed: int) -> None:
    """The same with tokens, and with threads; and without its token each request for a cart is refused."""
    token = jwt.encode({"sub": "support", "scope": "carts:all", "exp": int(time.time()) + 2 * _SECONDS}, _KEY, "HS256")
    tokens = {"CARTSVC_AUTH": "jwt", "CARTSVC_JWT_KEY": _KEY, "CARTSVC_GUEST_KEY": _KEY[::-1]}
    with serve(CARTSVC_THREADS="4", **tokens) as server:
        phases = _selected(_PHASES_WITH_TOKENS)
        run = schemathesis(server, tmp_path, seed, phases, f"--header=Authorization: Bearer {token}")
        check_run(server, run, seed, _PHASES_WITH_TOKENS)
        assert token not in server.log()
