"Signals the process that asked for the verdict."
# ends with: ProcessLookupError
import os
os.kill(PID, 0)
