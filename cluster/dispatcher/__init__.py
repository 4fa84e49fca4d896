"""Use cases an agent asks for: sessions, assignments, receipts."""
