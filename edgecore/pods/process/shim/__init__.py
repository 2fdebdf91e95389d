"""The supervisor of one pod: a process that outlives edgecore. Nothing but the standard library, and little of it (PROC-1)."""
