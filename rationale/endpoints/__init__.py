"""Models that are served: teachers, generators and extractors behind an OpenAI-compatible endpoint."""
