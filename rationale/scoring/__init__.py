"""What a response answered, how right it was, and how sure a mean over many of them is."""
