"""Watching: metrics today."""
