"""Controllers: each writes what it declares, and nobody else does."""
