"""Machines that boot: their records, how they are started with and without systemd, and what is done in them."""
