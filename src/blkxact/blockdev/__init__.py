"""From options to nodes: opening, creating and describing images."""
