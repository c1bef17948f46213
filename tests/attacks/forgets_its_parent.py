"Asks not to be ended with its parent, leaves the session, and stays."
# ends with: timeout
import ctypes, os, time
ctypes.CDLL(None).prctl(1, 0)
try:
    os.setsid()
except PermissionError:
    pass
time.sleep(60)
