"Takes hold of its parent as a debugger."
# ends with: AssertionError
import ctypes
assert ctypes.CDLL(None).ptrace(0x4206, 1, 0, 0) == 0
