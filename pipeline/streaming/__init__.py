"""Faust made safe: the only room that knows its insides."""
