"""Scale as a fault: thousands of simulated agents against one real manager."""
