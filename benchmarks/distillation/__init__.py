"""What a student gains by a teacher."""
