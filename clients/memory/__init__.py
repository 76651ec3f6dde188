"""Memory that client and server share."""
