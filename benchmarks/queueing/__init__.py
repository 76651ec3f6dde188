"""A model of requests that wait, are batched and run: what a configuration would do under a load, without a server."""
