"""Grammars made from other notations: JSON Schema, tool schemas, regular expressions, GBNF, EBNF."""
