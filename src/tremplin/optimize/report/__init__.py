"""Telling what was measured: plots, a page, a model card, a terminal table."""
