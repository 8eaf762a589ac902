"""The JSON of the APIs that the gateway serves, one API a file; pure. No dialect imports another."""
