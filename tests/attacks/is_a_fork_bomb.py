"Starts processes that start processes (ten levels at most, five seconds long)."
# ends with: PermissionError
import os, time
end = time.monotonic() + 5
for _ in range(10):
    os.fork()
time.sleep(max(0, end - time.monotonic()))
