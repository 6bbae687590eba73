"""Making networks smaller: fewer layers, heads, neurons and words, and the training that makes up for it."""
