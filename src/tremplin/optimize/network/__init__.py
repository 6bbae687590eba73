"""A version's network as numbers: read from its graph, trained as torch modules, written as a graph again."""
