"Ends, but leaves a thread that does not."
# ends with: timeout
import threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
