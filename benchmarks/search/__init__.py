"""What a search gains by trials side by side."""
