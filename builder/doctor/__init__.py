"""What would fail when tritonserver loads a repository, found beforehand by reading its files."""
