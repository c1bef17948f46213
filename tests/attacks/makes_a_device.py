"Makes a device of its own to read the machine's memory."
# ends with: PermissionError
import os
os.mknod('/tmp/attack', 0o20600, os.makedev(1, 1))
