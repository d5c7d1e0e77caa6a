"""What is measured: pure functions on the logits and labels of forget, retain, val and test."""
