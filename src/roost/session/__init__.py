"""A session: a writable overlay over a machine's layers, and what is known of its id range and its changes."""
