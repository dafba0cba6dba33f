"""Shipped grammars with their cases and catalogues."""
