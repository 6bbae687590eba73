"""Recipes: lists of steps that turn one version into others, run, measured and compared."""
