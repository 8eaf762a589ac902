"""`python -m bench.peers`: measure four stream processors one after the other, with the same fold and topic."""
