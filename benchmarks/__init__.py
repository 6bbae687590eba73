"""Measurements behind every claim of speed, re-created by ``make bench``."""
