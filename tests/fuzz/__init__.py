"""Anything as input: hypothesis in the suite, and atheris for as long as one likes (`make fuzz`), by the same functions."""
