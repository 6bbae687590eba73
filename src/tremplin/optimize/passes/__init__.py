"""Passes: each takes a graph and writes another, one file per pass."""
