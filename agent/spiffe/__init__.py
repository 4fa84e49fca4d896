"""The SPIFFE Workload API for one service, a process of its own beside the agent."""
