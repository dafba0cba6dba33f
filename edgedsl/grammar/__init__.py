"""The grammar: one :class:`Grammar` per model, one :class:`Matcher` per request."""

from edgedsl.grammar.compiled import CompiledGrammar
from edgedsl.grammar.grammar import START, Grammar
from edgedsl.grammar.guard import BudgetGuard
from edgedsl.grammar.matcher import Matcher
from edgedsl.grammar.spans import Spans
from edgedsl.grammar.subset import Subset

__all__ = ["START", "BudgetGuard", "CompiledGrammar", "Grammar", "Matcher", "Spans", "Subset"]
