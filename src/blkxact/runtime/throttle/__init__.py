"""Rate limits and throttle groups."""
