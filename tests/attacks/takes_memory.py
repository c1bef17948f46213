"Takes a gigabyte."
# ends with: limit MemoryError
bytearray(2**30)
