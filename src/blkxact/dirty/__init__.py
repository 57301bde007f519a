"""Sets of dirty granules: compressed in memory and as stored in images."""
