"""The APIs we serve, one file each; pure: JSON <-> records. No dialect imports another."""
