"Sleeps a little at a time, for ever, so that it uses next to no processor time."
# ends with: timeout
import time
while True:
    time.sleep(0.01)
