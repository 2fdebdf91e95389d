"""Where a pod may run and where it runs best. Pure but for the cache of nodes, which the store's events keep."""
