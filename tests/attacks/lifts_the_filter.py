"Asks the kernel to forget the filter."
# ends with: AssertionError
import ctypes
assert ctypes.CDLL(None).prctl(22, 0, 0, 0, 0) == 0
