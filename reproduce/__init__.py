"""What several stages share. Each module says in its first line what it is for."""
