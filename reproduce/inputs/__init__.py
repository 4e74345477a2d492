"""Inputs: the catalog, downloads, sentences, tokens; in this order."""
