"""The console: pages on which people see what became of every email, and act. Rendered here, without scripts."""
