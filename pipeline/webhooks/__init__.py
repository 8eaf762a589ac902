"""What all webhook adapters share: a request in, its proof, its fields and its words out; sans-I/O."""
