"""Private networks of machines: addresses, links, the firewall, names, and what the host's own managers are told."""

from roost.network.network import Network
from roost.network.records import Hop, Link, Terms, terms_from

__all__ = ["Hop", "Link", "Network", "Terms", "terms_from"]
