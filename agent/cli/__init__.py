"""The command `strongroom-agent`."""
