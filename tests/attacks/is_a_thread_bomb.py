"Starts threads (five thousand at most)."
# ends with: error RuntimeError
import threading, time
for _ in range(5000):
    threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
