"Fills files that lie in memory."
# ends with: PermissionError
import os
for n in range(1000):
    os.write(os.memfd_create(str(n)), b'x' * 2**20)
