"""The APIs we call and whose webhooks we read, one file each: mapping tables and three small functions; sans-I/O."""
