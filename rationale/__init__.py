"""Make vision-language models reason, and prove it: the method of arXiv 2410.16198 as a framework."""

from rationale import operators

__version__ = "0.1.0"

operators.install()
