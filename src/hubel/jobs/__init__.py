"""What a command does from beginning to end; the only room that knows all others."""
