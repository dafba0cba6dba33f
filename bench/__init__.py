"""Measurements: how fast, how much memory, on which machine."""
