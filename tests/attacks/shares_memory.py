"Fills memory that belongs to nobody, piece by piece (a gigabyte at most)."
# ends with: AssertionError
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype, libc.shmdt.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
for _ in range(16):
    piece = libc.shmget(0, 2**26, 0o1600)
    assert piece >= 0
    place = libc.shmat(piece, None, 0)
    libc.shmctl(piece, 0, None)  # goes with its last user, should this ever run outside
    ctypes.memset(place, 1, 2**26)
