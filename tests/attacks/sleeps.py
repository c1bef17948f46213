"Does nothing, for a minute."
# ends with: timeout
import time
time.sleep(60)
