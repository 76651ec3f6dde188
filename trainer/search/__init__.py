"""A search for good settings: many short trainings, side by side."""
