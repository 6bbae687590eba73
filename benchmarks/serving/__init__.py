"""Tremplin against the raw engine, against its peers, and against too much work."""
