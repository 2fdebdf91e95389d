"""Protocol ``simulated``: devices that exist in arithmetic only, repeatable by their seed."""
