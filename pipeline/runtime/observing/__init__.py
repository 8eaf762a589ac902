"""What an operator sees of a process: logs, metrics, health, traces, and a late event loop."""
