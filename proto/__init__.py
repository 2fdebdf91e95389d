"""What processes say to each other, and the link that carries it."""
