"Works in two threads at once, each of which uses half of the time."
# ends with: timeout
import hashlib, threading
def work():
    while True:
        hashlib.sha256(bytes(2**20)).digest()
threading.Thread(target=work).start()
work()
