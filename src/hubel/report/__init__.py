"""Evidence drawn for people: pages, charts, pictures, and lines on the terminal. No torch."""
