"""Jobs: their states and verbs, how they end, and the completion object of a transaction."""
