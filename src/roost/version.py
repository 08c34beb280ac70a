"""The version, alone, so that whoever needs it need not import more."""

__version__ = "0.1.0"
