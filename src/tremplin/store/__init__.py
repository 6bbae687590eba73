"""Durable state: API keys today."""
