"Makes itself administrator of a namespace of its own."
# ends with: AssertionError
import ctypes
assert ctypes.CDLL(None).unshare(0x10000000) == 0
