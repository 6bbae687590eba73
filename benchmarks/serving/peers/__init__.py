"""The servers compared with: how each is installed, started, asked and understood."""
