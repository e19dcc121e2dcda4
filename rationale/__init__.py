"""Make vision-language models reason, and prove it: the method of arXiv 2410.16198 as a framework."""

from rationale import earlier, operators

__version__ = "0.1.0"

operators.install()
earlier.install()
