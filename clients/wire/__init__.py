"""The connection to a server: what is said, and what carries it."""
