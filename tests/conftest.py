"""What all tests share."""

import signal

# A shell without job control has what it starts in the background ignore Ctrl-C, and that is inherited: the commands
# that tests interrupt would never end.
signal.signal(signal.SIGINT, signal.default_int_handler)
