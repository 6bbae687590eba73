"""Versions for other runtimes: written as their files, run there, and kept only when the answers are the same."""
