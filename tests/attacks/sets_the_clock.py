"Sets the machine's clock to what it is."
# ends with: PermissionError
import time
time.clock_settime(0, time.clock_gettime(0))
