"""Hybrids as data: one file a family."""
