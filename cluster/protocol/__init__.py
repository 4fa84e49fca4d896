"""What both ends must agree on: messages, ids, identities, errors. Imports nothing of ours."""
