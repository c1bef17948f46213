"Writes to its log for ever."
# ends with: limit
import os
while True:
    os.write(2, b'spam' * 1000)
