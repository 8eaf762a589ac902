"""Code that every role needs. This file imports nothing, because pure rooms import single modules of the package."""
