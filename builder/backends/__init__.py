"""The Python-backend models that are copied into a model version and served by Triton."""
