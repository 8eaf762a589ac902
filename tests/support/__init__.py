"""Helpers of many tests: servers, roles in processes, polling with a deadline, the rule about skipped tests."""
