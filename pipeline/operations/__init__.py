"""Answer an operator's questions and repair what they find."""
