"""Hold what every role stands on. Import nothing here: pure rooms read parts of this package."""
