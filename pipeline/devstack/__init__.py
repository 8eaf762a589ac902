"""Run everything on one machine: supervisor, embedded servers, sandbox, demo."""
