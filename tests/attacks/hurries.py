"Gives itself priority over everybody."
# ends with: PermissionError
import os
os.nice(-5)
