"""The types of examples/storefront, in JSDoc: its modules keep them, and strict TypeScript reads those of cart.js."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.npm import Ended, run_package

pytestmark = pytest.mark.server
_ROOT = Path(__file__).parents[2]
_STOREFRONT = _ROOT / "examples" / "storefront"
_PAGE = (_ROOT / "docs" / "storefront.md").read_text(encoding="utf-8")

# Every check that tsc has and a project may turn on.
_STRICT = {
    "strict": True,
    "exactOptionalPropertyTypes": True,
    "noFallthroughCasesInSwitch": True,
    "noImplicitOverride": True,
    "noImplicitReturns": True,
    "noUncheckedIndexedAccess": True,
    "noUnusedLocals": True,
    "noUnusedParameters": True,
    "verbatimModuleSyntax": True,
}
_MISTAKES = {
    'await cart.add({ product: "mug", quantity: 1 });': "TS2353",
    'await cart.setQuantity("mug", "2");': "TS2345",
    'await cart.change("mug", { colour: "red" });': "TS2353",
    'await cart.signIn({ strategy: "add" });': "TS2322",
    "cart.state.cart.items.map((item) => item.title);": "TS2339",
}


def test_every_module_keeps_its_types(tmp_path: Path) -> None:
    """With every check of tsc, for browsers of 2022."""
    modules = sorted(_STOREFRONT.glob("*.js"))
    assert len(modules) > 8
    options = {**_STRICT, "allowJs": True, "checkJs": True, "target": "es2022", "module": "esnext", "types": []}
    checked = _check(tmp_path, modules, options | {"moduleResolution": "bundler"})
    assert (checked.returncode, checked.output) == (0, "")


def test_a_strict_page_uses_the_copied_module(tmp_path: Path) -> None:
    """The page of docs/storefront.md compiles with the settings that it names, and each mistake does not."""
    code, settings = (_block(language) for language in ("ts", "json"))
    shutil.copy(_STOREFRONT / "cart.js", tmp_path)
    (tmp_path / "page.ts").write_text(code)
    start = ['import { ShopCart } from "./cart.js";', 'const cart = new ShopCart({ base: "" });']
    (tmp_path / "mistakes.ts").write_text("\n".join([*start, *_MISTAKES]))
    expected = [("mistakes.ts", str(line), code) for line, code in enumerate(_MISTAKES.values(), len(start) + 1)]
    named = json.loads(settings)["compilerOptions"]
    checked = _check(tmp_path, [tmp_path / "page.ts", tmp_path / "mistakes.ts"], named, _STRICT | named)
    found = re.findall(r"(?m)^(\S+)\((\d+),\d+\): error (TS\d+)", checked.output)
    assert found == expected + expected, checked.output


def _block(language: str) -> str:
    """Return the one block of code in this language of docs/storefront.md."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", _PAGE, re.MULTILINE | re.DOTALL)
    return str(block)


def _check(folder: Path, files: list[Path], *alternatives: dict[str, Any]) -> Ended:
    """Run tsc on these files, with each of these options in turn, without an output of its own."""
    for number, options in enumerate(alternatives):
        # TypeScript's own libraries need no check.
        settings = {
            "compilerOptions": {**options, "noEmit": True, "skipLibCheck": True},
            "files": list(map(str, files)),
        }
        (folder / f"{number}.json").write_text(json.dumps(settings))
    projects = [f"{number}.json" for number in range(len(alternatives))]
    return run_package("tsc", "--build", *projects, "--pretty", "false", cwd=folder)
