"Makes a second name, writable, of a library."
# ends with: Invalid cross-device link
import os
os.link(os.__file__, '/tmp/attack.py')
open('/tmp/attack.py', 'a')
