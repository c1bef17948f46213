"Starts a process by the calls of another word length, which a careless filter forgets."
# ends with: error
import ctypes, mmap, os
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes.fromhex('b802000000cd80c3'))  # fork, as a 32-bit program asks for it
child = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
if child == 0:
    os._exit(0)
assert child > 0
