"Copies memory out of another process, without /proc."
# ends with: AssertionError
import ctypes
assert ctypes.CDLL(None).process_vm_readv(1, None, 0, None, 0, 0) == 0
