"""The installation's secrets and what is signed, hashed and sealed with them."""
