"""Connections of monitors, and the chardevs that they are put on."""
