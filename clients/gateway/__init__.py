"""A detector for programs that have no gRPC: ``python -m clients gateway``."""
