"Reads what the kernel tells about the machine."
# ends with: FileNotFoundError
import os
print(os.listdir('/sys'))
