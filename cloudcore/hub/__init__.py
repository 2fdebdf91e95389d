"""Between the API and the link: which objects a node needs, and what comes back from it."""
