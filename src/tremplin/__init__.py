"""Tremplin: takes an NLP model from prototype to production."""

__version__ = "0.1.0"
