"Stops itself, so that it uses no time at all."
# ends with: timeout
import os, signal
os.kill(os.getpid(), signal.SIGSTOP)
