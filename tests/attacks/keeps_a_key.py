"Leaves a secret in the kernel's keyring for the next program."
# ends with: AssertionError
import ctypes
assert ctypes.CDLL(None).syscall(248, b'user', b'attack', b'x', 1, -3) >= 0
