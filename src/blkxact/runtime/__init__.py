"""What every layer stands on: time, turns, settling, events, fault points and traces."""
