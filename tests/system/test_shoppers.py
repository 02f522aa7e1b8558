"""The simulated shoppers of ``make load``, in a process of their own: what their verdict is worth."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.support.ports import free_port
from tests.support.servers import serve
from tests.support.tokens import ENVIRONMENT, SECRET

ROOT = Path(__file__).parents[2]
SECONDS = 60
KINDS = {"add item", "add items", "change item", "check out", "new guest", "sign in", "view cart"}
# A token of the shop for the user id that is the last argument; without packages, because each user starts it once.
TOKENS = """
import base64, hashlib, hmac, json, sys, time
def part(data): return base64.urlsafe_b64encode(data).rstrip(b"=")
claims = {"sub": sys.argv[2], "exp": int(time.time()) + 300}
text = b".".join(part(json.dumps(each).encode()) for each in ({"alg": "HS256", "typ": "JWT"}, claims))
print((text + b"." + part(hmac.digest(sys.argv[1].encode(), text, "sha256"))).decode())
"""


def shop(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Let eight shoppers make three journeys each, in a hurry; a fifth of their changes is sent twice."""
    command = [sys.executable, "-m", "bench.shoppers", "--url", url, "--users", "8", "--journeys", "3", *options]
    command += ["--think", "0.02", "--cut", "0.2"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS)


def counts(ended: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Return the numbers of the verdict by their names."""
    lines = " ".join(ended.stdout.splitlines()[-2:]).replace(",", "")
    return {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", lines)}


def test_shoppers_lose_nothing(tmp_path: Path) -> None:
    """Users with tokens sign in and check out; each change is there once, however often it was sent."""
    picture = tmp_path / "load.svg"
    program = tmp_path / "token.py"
    program.write_text(TOKENS)
    command = f"{sys.executable} -S {program} {SECRET}"
    with serve(**ENVIRONMENT, WEB_CONCURRENCY="1") as server:
        ended = shop(server.url, "--picture", str(picture), "--token-command", command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = counts(ended)
    assert found.pop("changes") > found.pop("responses") > 0
    assert found.pop("comparisons") > 0
    assert set(found.values()) == {0}
    assert {row.split("|")[1].strip() for row in ended.stdout.splitlines() if row.startswith("| ")} >= KINDS
    titles = [text.text or "" for text in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314 - our own
    assert {title.partition(":")[0] for title in titles if "requests" in title} == KINDS


def test_lost_and_doubled_items_are_found(tmp_path: Path) -> None:
    """On a server that has neither a reliable store nor keys; the verdict names the carts and the items."""
    with serve("tests.support.apps.losing_app:app", WEB_CONCURRENCY="1") as server:
        ended = shop(server.url, "--picture", str(tmp_path / "load.svg"))
    assert ended.returncode == 1, ended.stdout + ended.stderr
    found = counts(ended)
    assert found["lost"] > 0
    assert found["doubled"] > 0
    assert re.search(r"^cart (guest|load)-\S+: sku-\d+( [SML])?: \d+ expected, \d+ found$", ended.stdout, re.MULTILINE)


def test_a_url_without_a_service_is_reported() -> None:
    """At once, and not after a run of failed requests."""
    url = f"http://127.0.0.1:{free_port()}"
    ended = shop(url)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"bench.shoppers: no cartsvc at {url}: ")
