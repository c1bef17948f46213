"Maps memory piece by piece."
# ends with: Cannot allocate memory
import mmap
pieces = [mmap.mmap(-1, 2**28) for _ in range(9)]
