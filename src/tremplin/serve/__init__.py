"""The request's journey: admit, tokenize, queue, batch, engine, answer."""
