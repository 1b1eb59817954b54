"""The project's words: identifiers say what they hold, in the field's standard terms (docs/glossary.md)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
WORDS = re.compile(
    "told|found|asked|given|wanted|shown|known|held|wish|knobs?|dead|living|made|telling|doorkeeper|doors?|rooms?|floors?"
    "|learner|lesson|course|anatomy|tops|zoos"
)
"""Words that say nothing of what they hold, or that only this project once used so."""
TYPES = re.compile(
    "Wish|Fan|Together|Current|Doorkeeper|Observed|Bodies|Wanted|Asked|Known|Found|Shown|Learner|Lesson|Course|Judge"
    "|Telling|Order|Knob|Study|Feed"
)
FILES = sorted(
    str(path.relative_to(PROJECT)) for folder in ("lib", "jobs", "tests") for path in (PROJECT / folder).rglob("*.py")
)


def banned(word: str) -> bool:
    return bool(WORDS.fullmatch(word) or TYPES.fullmatch(word))


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of all that a module names itself; what it imports or calls of others is theirs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


@pytest.mark.parametrize("name", FILES)
def test_identifiers_say_what_they_hold(name: str) -> None:
    tree = ast.parse((PROJECT / name).read_text(encoding="utf-8"))
    bad = [f"{line}: {word}" for line, word in identifiers(tree) if banned(word.lstrip("_"))]
    assert not bad, f"{name} uses banned words; say what these hold: {', '.join(bad)}"


@pytest.mark.parametrize("path", [name for name in FILES if name.startswith("lib/")])
def test_modules_are_named_in_standard_terms(path: str) -> None:
    assert not any(banned(part.removesuffix(".py")) for part in Path(path).parts)
