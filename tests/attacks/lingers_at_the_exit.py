"Asks for one more thing to be done at the end, which takes a minute."
# ends with: timeout
import atexit, time
atexit.register(time.sleep, 60)
