"""The documents are plain: short sentences in README.md, and no line of prose over 100 columns."""

import importlib
import re
from pathlib import Path

import pytest

import pass_transfer

ROOT = Path(__file__).parents[1]
MOST_WORDS = 25
MOST_COLUMNS = 100
DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(ROOT / "docs").glob("*.md"),
    ]
)
NEW_BLOCK = re.compile(r"\s*([-*] |\d+\. |#)")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
CODE = re.compile(r"`[^`]*`")
SENTENCE_END = re.compile(r"[.!?][*)\"]*\s+")


def prose(text):
    """(line number, line) of Markdown without code blocks, tables and pictures."""
    found, fenced = [], False
    for number, line in enumerate(text.splitlines(), start=1):
        fence = line.lstrip().startswith("```")
        fenced = fenced != fence
        other = line.startswith("    ") or line.lstrip().startswith(("|", "![", "<!--"))
        if not (fence or fenced or other):
            found.append((number, line))
    return found


def paragraphs(text):
    """Prose joined over line ends; a heading or a list item begins a paragraph of its own."""
    joined, before = [], None
    for number, line in prose(text):
        continues = before == number - 1 and joined and joined[-1] and line.strip()
        if continues and not NEW_BLOCK.match(line):
            joined[-1] += " " + line.strip()
        else:
            joined.append(NEW_BLOCK.sub("", line, count=1).strip())
        before = number
    return [paragraph for paragraph in joined if paragraph]


def sentences(text):
    """The sentences of a document, each a list of words; a name in code is one word."""
    found = []
    for paragraph in paragraphs(text):
        plain = CODE.sub("CODE", LINK.sub(r"\1", paragraph))
        found += [sentence.split() for sentence in SENTENCE_END.split(plain)]
    return found


def test_no_sentence_of_the_readme_is_long():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    long = [" ".join(words) for words in sentences(text) if len(words) > MOST_WORDS]
    assert not long


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_line_of_prose_is_long(document):
    lines = prose(document.read_text(encoding="utf-8"))
    assert not [(number, line) for number, line in lines if len(line) > MOST_COLUMNS]


def test_sentences_are_found_across_lines_and_outside_of_code():
    text = (
        "# A heading\n\nOne sentence\nof two lines. Another with `a b c`, and [a link](x y z).\n"
        "\n    a b c d e\n\n```sh\na b c d e\n```\n| a b c d e |\n\n- an item\n- a second\n  item\n"
    )
    assert [" ".join(words) for words in sentences(text)] == [
        "A heading",
        "One sentence of two lines",
        "Another with CODE, and a link.",
        "an item",
        "a second item",
    ]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_link_to_a_file_leads_to_one(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    assert [t for t in targets if "://" not in t and not (ROOT / t).exists()] == []


def test_the_api_page_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    paths = re.findall(r"^::: (\S+)\.(\w+)$", page, re.MULTILINE)
    assert sorted(name for _, name in paths) == pass_transfer.__all__
    for module, name in paths:
        assert getattr(importlib.import_module(module), name) is getattr(pass_transfer, name)
