"""Stages beside the method, called as the others are."""
