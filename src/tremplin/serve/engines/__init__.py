"""Adapters of the engine interface, one file per runtime."""
