"""The whole way shown: real batches in, and what Fast Track must hear held against what it heard."""
