"""The graph of nodes: drivers' contract, nodes, edges, permissions, drain, copying."""
