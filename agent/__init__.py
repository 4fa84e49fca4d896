"""Strongroom's node side: receives assigned secrets and mounts them on a tmpfs."""
