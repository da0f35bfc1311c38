"""What a network sees: heat maps and filters."""
