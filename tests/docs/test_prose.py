"""Check the language of the pages and of docstrings, comments and messages (docs/contributing.md, "Language").

The pages are README, changelog and docs/; the modules are those of cartsvc, examples and tests/support.

Each finding is reported as ``file:line: "words found" -> words to use``. Code is not checked: neither code blocks and
`inline code` in Markdown, nor identifiers in Python.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[2]

_BE = r"(?:is|are|was|were|be|been|being)"

# Uses that a rule below would report although they are good English: persons, and fixed phrases.
_PROPER = (
    r"\b(?:anyone|everyone|someone|those|users?|people|persons?|shoppers?|customers?|guests?|owners?),? who\b",
    r"\b(?:operators?|attackers?|developers?|engineers?|maintainers?|contributors?|readers?),? who\b",
    r"\bwho the caller is\b",
    r"\bso many (?:\w+ ){1,4}that\b",
    r"\bstands? in for\b",
    r"\bto and away\b",
)

_RULES = (
    # Rule 1: the subject is the thing.
    (r"\bwho(?:m|ever|mever)?\b", "name the program: the client that, a process that; for persons, anyone who"),
    (r"\bnobody\b", "no client, no process, nothing; for persons, no one"),
    (r"\b(?:some|every)body\b", "name it: another client, every connection"),
    (r"\bone may\b", "you may, clients may"),
    (r"\b(?:have|has|had) (?:a|no|its|their) say\b", "take effect, decide"),
    # Rule 4: data does not speak.
    (r"\btold\b", "given, reported, shown, configured"),
    (r"\btells\b", "shows, reports, indicates, returns"),
    (r"\bsays\b", "is, contains, states, specifies"),
    (r"\bsaid\b", "reported, written, stated"),
    (rf"\b{_BE} (?:not |never )?asked\b", "is queried, requested, called, required"),
    (r"\bspeaks? (?:of|to|for)\b", "mentions, connects to, refers to"),
    (r"\bstands? (?:in|on|at|there|beside|before|among|further)\b|\bstood\b", "is in, appears in, is stored in"),
    (r"\bl(?:ies|ie|ying) (?:in|on|at|about|among|there)\b", "is in, is left in"),
    (r"\bhears?\b|\bheard\b", "is notified of, receives, reports"),
    (r"\bbeliev(?:e|es|ed|ing)\b", "trust"),
    (r"\bbefall(?:s|en)?\b", "happens to"),
    # Rule 5: one standard word each.
    (r"\banswer(?:s|ed|ing)?\b", "response; respond, return"),
    (r"\banew\b", "again, re-"),
    (r"\bat the (?:most|least)\b", "at most, at least"),
    (rf"\b(?:{_BE}|stays?|went|goes) away\b", "unavailable; removed"),
    (r"\bthr(?:ow|ows|own|ew|owing) (?:\w+ )?out\b", "evict"),
    (r"\bcall(?:s|ed|ing)? (?:\w+ ){0,3}off\b", "abort"),
    (r"\btaken up\b", "resumed"),
    (r"\bbeside\b", "next to, in addition to, with"),
    (r"\bmend(?:s|ed|ing)?\b", "fix"),
    (r"\bso many\b", "N, that many, a limited number of"),
    (r"\bwhat is there\b", "the stored record, the existing cart"),
    (r"\bthr(?:ow|ows|own|ew|owing) away\b", "discard, remove"),
    (r"\bthe other one\b", "name it: the other cart, the target"),
    (rf"\b(?:that|what|which) {_BE} (?:not |already |still )?there\b|\b{_BE} not there\b", "exists; is absent"),
    (rf"\b{_BE} gone\b", "is deleted, has expired, is lost"),
    (rf"\b{_BE} refused\b", "is rejected"),
    (r"\bcan(?:not)? be had\b", "is available"),
    (r"\brepetitions?\b", "retry"),
    (r"\bback-ups?\b", "backup"),
    (r"\bpass(?:ed|es) over\b", "skip"),
    (r"\btak(?:es?|en|ing) (?:it |them )?out\b", "remove"),
    (r"\bfor ever\b", "forever"),
    (r"\bsettl(?:e|es|ed|ing)\b", "resolve"),
    (r"\bfrom the future\b", "clock skew"),
    (r"\bjust now\b", "currently, temporarily"),
    (r"\bgiv(?:e|es|en|ing) way\b", "yield"),
    (r"\bheads? of (?:a|an|the|its|each|every) (?:request|response)s?\b", "headers"),
)


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE)


_PROPER_USES = [_compiled(pattern) for pattern in _PROPER]
_COMPILED = [(_compiled(pattern), instead) for pattern, instead in _RULES]

_GAP = "\0"  # stands for what is not prose, so that no phrase reaches across it


def _blanked(found: re.Match[str]) -> str:
    return re.sub(r"[^\n]", _GAP, found[0])


def _findings(prose: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the words and the advice for each finding, in the order of the lines."""
    for proper in _PROPER_USES:
        prose = proper.sub(_blanked, prose)
    found = [(match.start(), match[0], instead) for rule, instead in _COMPILED for match in rule.finditer(prose)]
    for start, words, instead in sorted(found):
        yield prose.count("\n", 0, start) + 1, " ".join(words.split()), instead


# ---- prose of a file, at its own lines ----


def _prose(path: Path) -> str:
    """Return the text of a file with everything but prose blanked out."""
    text = path.read_text(encoding="utf-8")
    match path.suffix:
        case ".md":
            return _of_markdown(text)
        case ".py":
            return _of_python(text)
        case _:
            return _of_comments(text)


def _of_markdown(text: str) -> str:
    for code in (r"^```.*?^```$", r"`[^`\n]+`", r"(?<=\])\([^)\s]+\)", r"<!--.*?-->"):
        text = re.sub(code, _blanked, text, flags=re.MULTILINE | re.DOTALL)
    return text


def _of_comments(text: str) -> str:
    """Return the comments of a YAML file, a Dockerfile, a Makefile or a shell script."""
    lines = []
    for line in text.split("\n"):
        before, sharp, comment = line.partition("# ")
        lines.append(" " * len(before + sharp) + comment if before.strip("# \t") == "" or "##" in line else _GAP)
    return re.sub(r"`[^`\n]+`", _blanked, "\n".join(lines))


def _of_python(source: str) -> str:
    """Return comments, docstrings, and the other strings that have at least three words."""
    lines = source.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    prose = list(re.sub(r"\S", _GAP, source))

    def keep(start: int, end: int) -> None:
        text = re.sub(r"`[^`]+`", _blanked, source[start:end])
        prose[start:end] = text

    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            start = starts[token.start[0] - 1] + token.start[1]
            keep(start, start + len(token.string))
            prose[start] = " "
    nodes = list(ast.walk(ast.parse(source)))
    formatted = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in formatted for part in ast.walk(node)} - set(map(id, formatted))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        is_text = isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
        if is_text and id(node) not in parts:
            start, end = (
                starts[line - 1] + _characters(lines[line - 1], octets)
                for line, octets in ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset))
            )
            text = source[start:end]
            if isinstance(node, ast.JoinedStr):
                text = re.sub(r"\{[^{}]*\}", _blanked, text)
            text = re.sub(r"\\[nrt]|^[a-zA-Z]{0,2}\"|\"", lambda found: " " * len(found[0]), text)
            if id(node) in docstrings or len(re.findall(r"[A-Za-z']+", text)) >= 3:
                prose[start:end] = re.sub(r"`[^`]+`", _blanked, text)
    return "".join(prose)


def _characters(line: str, octets: int) -> int:
    return len(line.encode()[:octets].decode())


# ---- the checks ----

_PAGES = [*_ROOT.glob("*.md"), *_ROOT.glob("docs/**/*.md")]
_COMMENTED = [_ROOT / name for name in ("docker-compose.yml", "Dockerfile", "Makefile", ".ci/run")]
_COMMENTED += sorted(_ROOT.glob("deploy/**/*.y*ml"))
_SOURCES = [
    *_ROOT.glob("cartsvc/**/*.py"),
    *_ROOT.glob("tests/support/**/*.py"),
    *_ROOT.glob("examples/**/*.py"),
    _ROOT / "gunicorn.conf.py",
    _ROOT / "wsgi.py",
]


def _named(path: Path) -> str:
    return path.relative_to(_ROOT).as_posix()


_FILES = {_named(path): path for path in [*_PAGES, *_COMMENTED, *_SOURCES]}


def _reported(name: str) -> list[str]:
    return [f'{name}:{line}: "{words}" -> {instead}' for line, words, instead in _findings(_prose(_FILES[name]))]


@pytest.mark.parametrize("name", sorted(_FILES))
def test_the_language_is_plain(name: str) -> None:
    """A file has no persons for programs, no data that speaks, and no word of our own for a standard one."""
    reported = _reported(name)
    if reported:
        pytest.fail("\n".join(reported), pytrace=False)


@pytest.mark.parametrize("name", sorted(_named(page) for page in _PAGES))
def test_a_line_has_one_sentence(name: str) -> None:
    """Outside of tables and lists, each sentence has its line, so that an edit changes one line."""
    lines = enumerate(_of_markdown(_FILES[name].read_text(encoding="utf-8")).split("\n"), 1)
    several = [
        number
        for number, line in lines
        if re.match(r"[^|\s\d-]", line) and re.search(r"[^\s\d.][.!?]\)? +[A-Z\[*\0]", line)
    ]
    assert several == []


# ---- the check is right ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Who finds no room waits outside until somebody leaves.", ["Who", "somebody"]),
        ("Nobody is asked who they are.", ["Nobody", "is asked", "who"]),
        ("It fails for\nwhoever asks.", ["whoever"]),
        ("The header says which; the log tells more, as we were told.", ["says", "tells", "told"]),
        ("The store is\naway, and carts are thrown out.", ["is away", "thrown out"]),
        ("The other one called its merge off.", ["The other one", "called its merge off"]),
        ("It stands in the record, and lies in a file.", ["stands in", "lies in"]),
        ("What is not there is made anew, 64 at the most.", ["What is not there", "anew", "at the most"]),
        ("users who sign in, people who wait, and anyone who can reach the port", []),
        ("A read returns what is stored; `...` stands for members left out.", []),
        ("There were so many merges that the cart forgot one.", []),
        ("The call `told.who()` is code.", []),
    ],
)
def test_findings(text: str, expected: list[str]) -> None:
    """Good English passes; the rest is found with the words as written, also across a line break."""
    assert [words for _, words, _ in _findings(_of_markdown(text))] == expected


def test_only_prose_of_python_is_checked() -> None:
    """Comments, docstrings and sentences are checked, at their lines; names, short strings and `code` are not."""
    source = '''"""Nobody."""
whoever = {"told": 1}  # it is told
message = (
    f"The store {whoever} is "
    "away."
)
# what `nobody` knows,
#   somebody does
'''
    assert [(line, words) for line, words, _ in _findings(_of_python(source))] == [
        (1, "Nobody"),
        (2, "told"),
        (4, "is away"),
        (8, "somebody"),
    ]
