"Writes one file of 4 MB."
# ends with: limit OSError
open('/tmp/attack', 'wb').write(b'x' * 2**22)
