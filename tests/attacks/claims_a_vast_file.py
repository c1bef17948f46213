"Makes a file of a terabyte that is all hole."
# ends with: limit OSError
open('/tmp/attack', 'wb').truncate(2**40)
