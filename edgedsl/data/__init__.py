"""Pairs of sentence and program: read, check, split, baseline."""
