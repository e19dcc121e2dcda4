"""Losses as pure functions of log-probabilities: tensors in, tensors out."""
