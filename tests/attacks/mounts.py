"Mounts a file system."
# ends with: AssertionError
import ctypes, os
os.mkdir('/tmp/attack')
assert ctypes.CDLL(None).mount(b'none', b'/tmp/attack', b'tmpfs', 0, None) == 0
