"""The network: how it is loaded, what it reads, the shared prefix, log-probabilities, decoding."""
