"""What holds a running server up: readings, each with its threshold and what to do."""
