"Signals every process that it can reach."
# ends with: ProcessLookupError
import os, signal
os.kill(-1, signal.SIGCONT)
