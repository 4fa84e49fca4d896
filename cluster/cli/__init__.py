"""The operator command `strongroom`: a client of a manager, nothing else."""
