"""How many GPUs of each kind a fleet of cameras needs, what binds them, and what happens when something goes wrong."""
