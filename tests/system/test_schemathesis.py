"""Run schemathesis against the real server, which must respond to right and wrong requests as /openapi.json documents.

All its checks are on, for examples, boundary values, random requests, and chains of them.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import jwt
import pytest
from hypothesis import settings

from tests.support.schemathesis_hooks import SHORT_PATTERNS
from tests.support.servers import serve

if TYPE_CHECKING:
    from tests.support.servers import Server

_ROOT = Path(__file__).parents[2]
_HOOKS = _ROOT / "tests" / "support" / "schemathesis_hooks.py"
_EXAMPLES = settings.default.max_examples // 4  # of single requests to each operation, and of chains
_CONFIG = f"""
hooks = "{_HOOKS}"
[output.sanitization]
enabled = false
[generation]
max-examples = {_EXAMPLES}
database = "none"
"""
_SECONDS = 3600
_PHASES = ("examples", "coverage", "fuzzing", "stateful")
# Random requests differ in bodies and headers, which are read in the same way for known callers.
_PHASES_OF_KNOWN = tuple(each for each in _PHASES if each != "fuzzing" or settings.get_current_profile_name() != "fast")
_KEY = "a-secret-of-the-shop's-issuer-0123456789"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Of hypothesis, when it was given one: --hypothesis-seed repeats a run; else another one each time."""
    given = request.config.getoption("--hypothesis-seed")
    return random.randrange(2**32) if given in {None, "random"} else int(given)  # noqa: S311 - not for secrets


def check_answers(server: Server, directory: Path, seed: int, phases: tuple[str, ...], *arguments: str) -> None:
    """Check that these phases run over all operations and find nothing, and that the server logs no error."""
    config = directory / "schemathesis.toml"
    config.write_text(_CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", "--no-color"]
    run = subprocess.run(
        [
            *command,
            "--checks=all",
            f"--phases={','.join(phases)}",
            f"--seed={seed}",
            *arguments,
            f"{server.url}/openapi.json",
        ],
        cwd=directory,
        # For the hooks, and without the developer's proxies, for which each request would search the environment.
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert run.returncode == 0, f"make soak SEED={seed} repeats this:\n{run.stdout}{run.stderr}"
    for phase in phases:
        assert f"✅ {phase.capitalize()}\n" in run.stdout, run.stdout
    assert "Tested: 14\n" in run.stdout, run.stdout
    assert not re.search(r"Traceback|\[(ERROR|CRITICAL)\]", server.log())


def test_every_answer_is_as_documented(tmp_path: Path, seed: int) -> None:
    """No 5xx; what is right is accepted, what is wrong is refused, and every answer has a documented shape."""
    with serve(WEB_CONCURRENCY="1") as server:
        check_answers(server, tmp_path, seed, _PHASES)


def test_every_answer_to_known_callers_is_as_documented(tmp_path: Path, seed: int) -> None:
    """The same with tokens, and with threads; and without its token each request for a cart is refused."""
    token = jwt.encode({"sub": "support", "scope": "carts:all", "exp": int(time.time()) + 2 * _SECONDS}, _KEY, "HS256")
    tokens = {"CARTSVC_AUTH": "jwt", "CARTSVC_JWT_KEY": _KEY, "CARTSVC_GUEST_KEY": _KEY[::-1]}
    with serve(WEB_CONCURRENCY="1", CARTSVC_THREADS="4", **tokens) as server:
        check_answers(server, tmp_path, seed, _PHASES_OF_KNOWN, f"--header=Authorization: Bearer {token}")
        assert token not in server.log()


@pytest.mark.parametrize(("pattern", "short"), SHORT_PATTERNS.items())
def test_shorter_pattern_matches_the_same_texts(pattern: str, short: str) -> None:
    """In a text of all characters but surrogates, and of all those that they allow."""
    characters = "".join(map(chr, chain(range(0xD800), range(0xE000, sys.maxunicode + 1))))
    allowed = re.findall(pattern, characters)
    assert re.findall(short, characters) == allowed
    assert re.fullmatch(pattern, "".join(allowed))
    assert re.fullmatch(short, "".join(allowed))
