"""From evaluated rows to tables, figures and one page; nothing here reads a model or a config."""
