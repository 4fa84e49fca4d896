"""The HTTP edge of a manager: thin, translates between the wire and the use cases."""
