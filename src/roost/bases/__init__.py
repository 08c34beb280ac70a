"""Bases that no recipe makes: archives, images, directories, what mkosi makes; and trees that are adopted."""
