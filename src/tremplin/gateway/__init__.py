"""HTTP: the edge, the routes of each dialect, problems."""
