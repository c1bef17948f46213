"Asks the kernel to act in its name, past any filter."
# ends with: AssertionError
import ctypes
parameters = ctypes.create_string_buffer(120)
assert ctypes.CDLL(None).syscall(425, 1, parameters) >= 0
