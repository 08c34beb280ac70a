"""Machines that boot: their start, and what is done in them while they run."""
