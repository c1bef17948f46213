"Starts a process by clone3, past libc."
# ends with: AssertionError
import ctypes, os
flags = (ctypes.c_uint64 * 8)(0, 0, 0, 0, 17)
child = ctypes.CDLL(None).syscall(435, flags, 64)
if child == 0:
    os._exit(0)
assert child > 0
