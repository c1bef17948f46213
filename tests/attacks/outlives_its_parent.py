"Leaves a child behind, in a session of its own, that works on."
# ends with: PermissionError
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(10)
    os._exit(0)
