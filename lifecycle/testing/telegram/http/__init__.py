"""HTTP as the Bot API speaks it: bodies, arguments, refusals."""
