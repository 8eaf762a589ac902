"""Checks of a provider's configuration, with advice for what is wrong; `mailfold providers check` calls them."""
