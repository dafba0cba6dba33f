"""Programs that say no: the production by which a model may refuse, so that a grammar does not force an answer.

A language has it where a rule named ``refusal`` can be reached from ``start``: ``start: program | refusal`` and
``refusal: "unsupported"``. A refusal is an ordinary program, learnt from ordinary pairs; nothing else knows of it.
(:mod:`edgedsl.grammar.authoring.refusal` is about texts that the grammar rejects.)
"""

from __future__ import annotations

from lark import Tree

from edgedsl.errors import GrammarError
from edgedsl.grammar.grammar import Grammar

RULE = "refusal"


def can_refuse(grammar: Grammar) -> bool:
    """Whether the language has a production for what it cannot express; Lark drops rules that nothing reaches."""
    return any(rule.origin.name == RULE for rule in grammar.lark.rules)


def is_refusal(grammar: Grammar, text: str) -> bool:
    """Whether the text is a program that consists of a refusal; False for what is no program."""
    if not can_refuse(grammar):
        return False
    try:
        tree = grammar.parse(text)
    except GrammarError:
        return False
    while isinstance(tree, Tree) and tree.data != RULE and len(tree.children) == 1:
        tree = tree.children[0]
    return isinstance(tree, Tree) and tree.data == RULE
