"""Vision-language models: loading, references, sampling, teachers."""
