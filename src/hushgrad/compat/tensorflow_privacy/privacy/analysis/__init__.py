"""What a run costs, in TensorFlow Privacy's words and with its numbers.

For tighter bounds, lower bounds and statements of what really ran see
`hushgrad.accounting`.
"""
