"Starts a process by the call that needs no fork."
# ends with: PermissionError
import os, sys
os.posix_spawn(sys.executable, [sys.executable, '-c', '1'], {})
